"""All heuristics together: what `ilp` is never worse than."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.methods.greedy import solve_greedy
from autockpt_solvers.methods.mincut import solve_mincut
from autockpt_solvers.methods.reference.chain import solve_chain
from autockpt_solvers.methods.reference.full import solve_full
from autockpt_solvers.methods.reference.revolve import solve_revolve
from autockpt_solvers.methods.reference.uniform import solve_sqrt, solve_uniform
from autockpt_solvers.orders.facts import orders_of
from autockpt_solvers.session import once

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autockpt_solvers.problem import Problem

# Those whose plans do not depend on the room, and those that search for it.
_FIXED: tuple[Callable[..., Attempt], ...] = (solve_full, solve_sqrt, solve_uniform, solve_revolve)
_SEARCHING: tuple[Callable[..., Attempt], ...] = (solve_mincut, solve_greedy, solve_chain)


def solve_heuristics(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers what every heuristic offers."""
    deadline = time.monotonic() + time_limit_s

    def asked(heuristic: Callable[..., Attempt]) -> Attempt:
        limit = max(0.1, (deadline - time.monotonic()) / 5)
        return heuristic(problem, time_limit_s=limit, seed=seed)

    def make_fixed() -> list[Sequence[int]]:
        return orders_of(problem.graph).front([o for h in _FIXED for o in asked(h).orders])

    fixed = once("fixed", make_fixed)
    return Attempt(orders=(), fixed=tuple(fixed), others=tuple(asked(h) for h in _SEARCHING))
