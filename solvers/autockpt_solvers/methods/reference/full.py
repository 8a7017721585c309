"""`full`: keep only what cannot be made again, and make the rest again just in time.

Also known as full recomputation.
Guarantee: the fewest bytes at the turn from forward to backward; every forward op runs at most
twice.
Complexity: linear.
Weakness: what is made again for one backward op is kept to its last use, so in a deep model the
backward starts by making nearly everything, and the peak is hardly lower than with `none`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.orders.facts import orders_of

if TYPE_CHECKING:
    from autockpt_solvers.problem import Problem


def solve_full(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers the schedule with the fewest saved bytes."""
    del time_limit_s, seed
    order = orders_of(problem.graph).just_in_time(())
    return Attempt(orders=(order,))
