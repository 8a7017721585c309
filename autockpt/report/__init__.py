"""The plan as a value, as text and as JSON."""
