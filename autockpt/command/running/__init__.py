"""How every command runs: what it writes and reads, and what ends it."""
