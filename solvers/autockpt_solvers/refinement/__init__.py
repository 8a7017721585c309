"""Annealing over what a plan keeps and holds, on the whole graph."""
