"""`local`: annealing over compute orders."""

from __future__ import annotations

from autockpt_solvers.methods.local.method import (
    EFFORT_FROM_A_PLAN,
    MOST_OPS,
    anneal_from,
    solve_local,
)

__all__ = ["EFFORT_FROM_A_PLAN", "MOST_OPS", "anneal_from", "solve_local"]
