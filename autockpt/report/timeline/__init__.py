"""The memory of a step over time, by kind, with what is in memory at any moment."""
