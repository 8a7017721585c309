"""`ilp`: the default method."""

from __future__ import annotations

from autockpt_solvers.methods.ilp.method import solve_ilp

__all__ = ["solve_ilp"]
