"""Profiling: run time, workspace and optimizer state, measured or estimated."""
