"""Checkpointed calls: which module calls to recompute when nothing can be captured."""
