"""The quick methods that `ilp` starts from, and is never worse than.

`mincut` and `greedy` search for the budget. `revolve` offers the same plans for every budget; on
long chains of equal blocks none needs less memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.methods.greedy import solve_greedy
from autockpt_solvers.methods.mincut import solve_mincut
from autockpt_solvers.methods.revolve import solve_revolve

if TYPE_CHECKING:
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import BuiltIn, Session

_HEURISTICS: tuple[BuiltIn, ...] = (solve_mincut, solve_greedy)
_SHARE = 0.2  # of the time left: each gets at most this
_LEAST_S = 0.1  # but never less than this


def solve_heuristics(problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
    """Offer what each heuristic offers."""
    deadline = session.clock.until(time_limit_s)

    def asked(heuristic: BuiltIn) -> Attempt:
        left = session.clock.seconds_left(deadline, share=_SHARE, least_s=_LEAST_S)
        return heuristic(problem, session, time_limit_s=left)

    if session.revolved is None:
        session.revolved = tuple(session.facts.front(asked(solve_revolve).orders))
    others = tuple(asked(heuristic) for heuristic in _HEURISTICS)
    return Attempt(orders=(), fixed=session.revolved, others=others)
