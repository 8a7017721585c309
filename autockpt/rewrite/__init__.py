"""Rewriting: a schedule as forward and backward modules that run."""
