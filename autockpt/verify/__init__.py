"""Verification: real steps beside eager, their bits and their peak."""
