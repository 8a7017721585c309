"""`none`: keep everything, run nothing twice.

Guarantee: no recomputation, by construction.
Complexity: linear.
Weakness: it uses the most memory; it fits only where no planning is needed. Ops that only the
backward needs run right before it needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.orders.facts import orders_of

if TYPE_CHECKING:
    from autockpt_solvers.problem import Problem


def solve_none(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers the schedule that runs every needed op once."""
    del time_limit_s, seed
    order = orders_of(problem.graph).baseline()
    return Attempt(orders=(order,))
