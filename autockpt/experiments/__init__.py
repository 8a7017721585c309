"""Experiments: models, budgets, methods and devices from a TOML file, solved cell by cell."""
