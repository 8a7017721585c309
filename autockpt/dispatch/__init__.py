"""Dispatch: which plan serves a call of an optimized module."""
