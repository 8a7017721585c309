"""Methods for graphs without a backward pass."""
