"""`auto`: the method that suits the graph.

With a backward pass: `ilp`. If that graph is small, or if `ilp` finds nothing that fits and the
graph is not large, `local` continues from the best plan of `ilp`. Without a backward pass:
`moments`, `local` and `intervals` in turn (see `any_order.free`).
Guarantee: never worse than `ilp`.
Complexity: that of the methods it calls.
Weakness: the choice looks at sizes only.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from autockpt_solvers.methods.ilp import solve_ilp

if TYPE_CHECKING:
    from autockpt_solvers.attempt import Attempt
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import Session

_SMALL = 48  # ops; up to here, annealing always follows: it costs next to nothing


def solve_auto(problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
    """Offer the plans of the method chosen, and say which it was."""
    deadline = session.clock.until(time_limit_s)
    graph, facts, budget = session.graph, session.facts, problem.available_bytes
    if graph.num_forward == len(graph.ops):
        from autockpt_solvers.methods.any_order.free import solve_free

        return solve_free(problem, session, time_limit_s=time_limit_s)
    attempt = solve_ilp(problem, session, time_limit_s=time_limit_s)
    first = attempt.offered
    ranks = [facts.lack(order, budget) for order in first]
    best = min(range(len(first)), key=ranks.__getitem__)
    is_stuck = ranks[best][0] > 0
    from autockpt_solvers.methods.local import EFFORT_FROM_A_PLAN, MOST_OPS, anneal_from

    left = deadline - session.clock.now()
    if left <= 0 or ranks[best] == (0, 0) or len(graph.ops) > (MOST_OPS if is_stuck else _SMALL):
        return dataclasses.replace(attempt, method="ilp")
    start, effort = first[best], EFFORT_FROM_A_PLAN
    more = anneal_from(problem, session, start, time_limit_s=left, effort=effort).orders
    is_better = min(facts.lack(order, budget) for order in more) < ranks[best]
    return dataclasses.replace(
        attempt, orders=(*attempt.orders, *more), method="local" if is_better else "ilp"
    )
