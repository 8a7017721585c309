"""`auto`: the method that suits the graph.

`ilp` where there is a backward pass. Where that graph is small, or `ilp` finds nothing that fits
and the graph is not large, `local` goes on from the best of `ilp`. Without a backward pass `free`
takes `moments`, `local` and `intervals` in turn.
Guarantee: never worse than `ilp`.
Complexity: that of the methods it calls.
Weakness: the choice looks at sizes only.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.methods.ilp import solve_ilp
from autockpt_solvers.orders.facts import orders_of

if TYPE_CHECKING:
    from autockpt_solvers.problem import Problem

_SMALL = 48  # ops; below, annealing costs next to nothing
_LARGE = 160  # ops; above, annealing does not find what `ilp` has not
_EFFORT = 0.2  # it starts from a good plan, at every level


def solve_auto(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers the plans of the method chosen, and says which it was."""
    started = time.monotonic()
    graph = problem.graph
    if graph.num_forward == len(graph.ops):
        from autockpt_solvers.methods.any_order.free import solve_free

        return solve_free(problem, time_limit_s=time_limit_s, seed=seed)
    attempt = solve_ilp(problem, time_limit_s=time_limit_s, seed=seed)
    first = (*attempt.fixed, *attempt.offered)
    orders = orders_of(graph)
    room = problem.room_bytes
    ranks = [orders.lack(order, room) for order in first]
    best = min(range(len(first)), key=ranks.__getitem__)
    is_stuck = ranks[best][0] > 0
    left = time_limit_s - (time.monotonic() - started)
    if left <= 0 or ranks[best] == (0, 0) or len(graph.ops) > (_LARGE if is_stuck else _SMALL):
        return dataclasses.replace(attempt, method="ilp")
    from autockpt_solvers.methods.local import improve

    more = improve(problem, first[best], time_limit_s=left, seed=seed, effort=_EFFORT).orders
    is_better = min(orders.lack(order, room) for order in more) < ranks[best]
    return dataclasses.replace(
        attempt, orders=(*attempt.orders, *more), method="local" if is_better else "ilp"
    )
