"""`local`: annealing over compute orders."""

from __future__ import annotations

from autockpt_solvers.methods.local.method import improve, solve_local

__all__ = ["improve", "solve_local"]
