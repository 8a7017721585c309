"""Methods that `auto` never takes: to compare with, and for proofs on small graphs."""
