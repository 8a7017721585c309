"""Whether a training step fits a device, with what it takes and what would help."""
