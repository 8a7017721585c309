"""Budget against overhead: the curve as a value, as text, as a table and as a picture."""
