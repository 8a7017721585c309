"""`local`: annealing over compute orders."""

from __future__ import annotations

from autockpt_solvers.methods.local.method import anneal_from, solve_local

__all__ = ["anneal_from", "solve_local"]
