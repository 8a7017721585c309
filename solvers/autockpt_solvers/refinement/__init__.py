"""Annealing over what a plan keeps in memory, on the whole graph."""
