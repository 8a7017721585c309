"""Compute orders of a graph: facts, evaluation, cuts and minimum cuts."""
