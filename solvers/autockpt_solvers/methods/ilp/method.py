"""`ilp`: takes the best of every heuristic."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from autockpt_solvers.methods.attempt import Attempt
from autockpt_solvers.methods.full import solve_full
from autockpt_solvers.methods.greedy import solve_greedy
from autockpt_solvers.methods.mincut import solve_mincut
from autockpt_solvers.methods.uniform import solve_sqrt, solve_uniform

if TYPE_CHECKING:
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.schedule import Schedule


def solve_ilp(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers what every heuristic offers."""
    started = time.monotonic()
    found: list[Schedule] = []
    for heuristic in (solve_full, solve_sqrt, solve_uniform, solve_mincut, solve_greedy):
        left = max(0.5, time_limit_s - (time.monotonic() - started))
        found.extend(heuristic(problem, time_limit_s=left, seed=seed).schedules)
    return Attempt(schedules=tuple(found))
