"""Rewriting: turns a schedule into forward and backward modules, and runs them."""
