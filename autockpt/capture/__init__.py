"""Capture: a training step as joint forward-and-backward graphs, on fake tensors."""
