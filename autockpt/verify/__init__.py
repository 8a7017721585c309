"""Verification: real steps are compared with eager, in their bits and their peak."""
