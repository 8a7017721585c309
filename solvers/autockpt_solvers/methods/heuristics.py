"""The quick heuristics that `ilp` starts from, and is never worse than: `mincut` and `greedy`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.methods.greedy import solve_greedy
from autockpt_solvers.methods.mincut import solve_mincut

if TYPE_CHECKING:
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import BuiltIn, Session

_HEURISTICS: tuple[BuiltIn, ...] = (solve_mincut, solve_greedy)
_MIN_TIME_S = 0.1  # one that is asked late still answers
_SHARE = 5  # each gets at most this fraction of the time left; on zoo graphs they take seconds


def solve_heuristics(problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
    """Offer what each heuristic offers."""
    deadline = time.monotonic() + time_limit_s
    others = []
    for heuristic in _HEURISTICS:
        left = max(_MIN_TIME_S, (deadline - time.monotonic()) / _SHARE)
        others.append(heuristic(problem, session, time_limit_s=left))
    return Attempt(orders=(), others=tuple(others))
