"""Graphs without a backward pass, in which any op may run again, in any order.

`moments` first: on training graphs in that form its plan is mostly optimal, and proven so. Else
`local` anneals, until it meets the bound of `moments` or its steps are used up; on small graphs
`intervals` then looks for a better plan, or proves that there is none of its class.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import EVERY_PLAN, Attempt
from autockpt_solvers.bounds.moments import solve_relaxations
from autockpt_solvers.methods.local import improve
from autockpt_solvers.orders.facts import Orders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.problem import Problem

_SMALL = 160  # ops; above, `intervals` does not find what annealing has not
_SHARE = 0.3  # of the time for moments, at most
_PROOF = 10.0


def solve_free(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers the best plan of the three methods, says whose it is, and what `moments` proves."""
    deadline = time.monotonic() + time_limit_s
    orders = Orders(problem.graph)
    room = problem.room_bytes
    found = solve_relaxations(problem, time_limit_s=time_limit_s * _SHARE, seed=seed)
    offers: list[tuple[str, Sequence[int]]] = [("local", orders.baseline())]
    offers += [("moments", order) for order in found.orders]

    def best() -> tuple[int, int, int]:
        """What the best of the offers lacks: bytes over the room, then recompute time."""
        return min((*orders.lack(order, room), k) for k, (_, order) in enumerate(offers))

    def is_done() -> bool:
        return best()[:2] <= (0, found.bound_ns) or time.monotonic() >= deadline

    if not is_done():
        more = improve(
            problem,
            orders.baseline(),
            others=[offers[best()[2]][1]] if found.orders else (),
            time_limit_s=deadline - time.monotonic(),
            seed=seed,
            goal_ns=found.bound_ns,
        )
        offers += [("local", order) for order in more.orders]
    bound_ns, bound_class = found.bound_ns, EVERY_PLAN
    if not is_done() and not found.is_infeasible and len(problem.graph.ops) <= _SMALL:
        from autockpt_solvers.methods.any_order.intervals import solve_intervals

        left = max(0.05, deadline - time.monotonic())
        more = solve_intervals(problem, time_limit_s=left, seed=seed, effort=_PROOF)
        offers += [("intervals", order) for order in more.orders]
        if best()[:2] <= (0, more.lower_bound_ns):
            bound_ns, bound_class = more.lower_bound_ns, more.bound_class
    method, _ = offers[best()[2]]
    return Attempt(
        orders=tuple(order for _, order in offers),
        method=method,
        lower_bound_ns=bound_ns,
        lower_bound_bytes=room + 1 if found.is_infeasible else 0,
        bound_class=bound_class,
    )
