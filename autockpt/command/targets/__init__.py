"""What the words of a command line stand for: models, plans, methods, experiments."""
