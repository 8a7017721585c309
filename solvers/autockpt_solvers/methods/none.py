"""`none`: keep everything and run no op twice.

Guarantee: no recomputation, by construction.
Complexity: linear.
Weakness: uses the most memory. Ops that only the backward needs run just before it needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt

if TYPE_CHECKING:
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import Session


def solve_none(problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
    """Offer the plan that runs every needed op once."""
    del problem, time_limit_s
    return Attempt(orders=(session.facts.baseline(),))
