"""The largest batch whose training step fits a budget."""
