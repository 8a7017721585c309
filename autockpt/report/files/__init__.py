"""Plans as files: what is written, and the checks of what is read."""
