"""How a search is asked: by levels, and by `ilp` with the backward ops moved first."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.bounds.bound import lower_bound_ns, turn_bound_ns
from autockpt_solvers.orders.facts import Orders
from autockpt_solvers.search.backward import find_order
from autockpt_solvers.search.levels import least_by_levels, solve_by_levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.attempt import Method
    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.problem import Problem

# Their answers depend on the room in ways that a larger one need not improve.
_SEARCHES = ("auto", "chain", "greedy", "ilp", "local", "mincut", "moments")
# They may move backward ops before they search.
_MOVING = ("auto", "ilp")
_LEAST_S = 0.05  # whoever is asked late still answers


def is_search(name: str, graph: ComputeGraph) -> bool:
    """Whether a method's answer depends on the room, and a bound can end the search."""
    return name in _SEARCHES and 0 < graph.num_forward < len(graph.ops)


def search(
    problem: Problem, name: str, method: Method, *, time_limit_s: float, seed: int
) -> Attempt:
    """What a search finds; a larger room never costs more.

    Where the backward ops are moved, heuristics search in the graph's own order too, unless the
    bound says that they cannot do better.

    Args:
        problem: The problem; its room is below the baseline's peak.
        name: The method's name.
        method: The method; `is_search` holds for it.
        time_limit_s: Ends the search.
        seed: Handed on.
    """
    deadline = time.monotonic() + time_limit_s
    moved = find_order(problem.graph, time_limit_s=time_limit_s) if name in _MOVING else None
    if moved is None:
        # Plans of `moments` may run backward ops in another order.
        bound = turn_bound_ns if name == "moments" else lower_bound_ns
        return solve_by_levels(
            problem, method, time_limit_s=_left(deadline), seed=seed, bound_ns=bound
        )
    orders, room = Orders(moved.graph), problem.room_bytes
    baseline = orders.baseline()
    if orders.evaluate(baseline)[0] <= room:
        return moved.attempt(Attempt(orders=(baseline,), method="none"))
    asked = dataclasses.replace(problem, graph=moved.graph)
    found = solve_by_levels(asked, method, time_limit_s=_left(deadline), seed=seed)
    attempt = moved.attempt(found)
    cost = _least_cost(orders, found, room)
    if cost <= lower_bound_ns(problem, time_limit_s=_left(deadline)):
        return attempt
    own = _in_order(problem, time_limit_s=_left(deadline), seed=seed)
    is_better = _least_cost(Orders(problem.graph), own, room) < cost
    return Attempt(
        orders=(*attempt.orders, *own.orders), method="ilp" if is_better else attempt.method
    )


def search_least(
    graph: ComputeGraph, name: str, method: Method, *, time_limit_s: float, seed: int
) -> tuple[int, Sequence[int] | None]:
    """The least room for which `search` finds a plan, and that plan."""
    deadline = time.monotonic() + time_limit_s
    moved = find_order(graph, time_limit_s=time_limit_s) if name in _MOVING else None
    if moved is None:
        return least_by_levels(graph, method, time_limit_s=_left(deadline), seed=seed)
    from autockpt_solvers.methods.heuristics import solve_heuristics

    orders = Orders(moved.graph)
    baseline = orders.baseline()
    found: list[tuple[int, Sequence[int] | None]] = [
        (orders.evaluate(baseline)[0], moved.originally(baseline))
    ]
    floor, order = least_by_levels(moved.graph, method, time_limit_s=_left(deadline), seed=seed)
    found.append((floor, None if order is None else moved.originally(order)))
    found.append(least_by_levels(graph, solve_heuristics, time_limit_s=_left(deadline), seed=seed))
    return min((least for least in found if least[1] is not None), key=lambda least: least[0])


def _in_order(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """What heuristics find in the graph's own order."""
    from autockpt_solvers.methods.heuristics import solve_heuristics

    return solve_by_levels(problem, solve_heuristics, time_limit_s=time_limit_s, seed=seed)


def _least_cost(orders: Orders, attempt: Attempt, room: int) -> float:
    """The recompute time of the cheapest plan that fits; infinite where none does."""
    judged = map(orders.evaluate, attempt.offered)
    return min((cost for peak, cost in judged if peak <= room), default=math.inf)


def _left(deadline: float) -> float:
    return max(_LEAST_S, deadline - time.monotonic())
