"""How `solve` asks a method: in which order of the backward, then level by level.

`ilp` and `auto` first look for an order of the backward ops that needs less memory (`backward`).
Then every method whose answer depends on the budget is asked by levels (`levels`).
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.bounds.recomputation import lower_bound_ns
from autockpt_solvers.deadline import seconds_left
from autockpt_solvers.search.backward import find_order
from autockpt_solvers.search.levels import least_by_levels, solve_by_levels
from autockpt_solvers.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.methods.registry import Record
    from autockpt_solvers.orders.facts import GraphFacts
    from autockpt_solvers.problem import Problem


def is_asked_by_levels(record: Record, graph: ComputeGraph) -> bool:
    """Whether to ask a method by levels: it is a search, and there are bounds for the graph."""
    return record.is_search and 0 < graph.num_forward < len(graph.ops)


def ask(problem: Problem, session: Session, record: Record, *, time_limit_s: float) -> Attempt:
    """Ask a method for plans; a larger budget never costs more.

    If the backward was reordered, heuristics search in the graph's own order too, unless the bound
    proves that they cannot do better.

    Args:
        problem: The problem; its budget is below the baseline's peak.
        session: The session of its graph.
        record: The method; `is_asked_by_levels` holds for it.
        time_limit_s: Ends the search.
    """
    deadline = time.monotonic() + time_limit_s
    method = record.load()
    moved = find_order(problem.graph, time_limit_s=time_limit_s) if record.may_reorder else None
    if moved is None:
        left = seconds_left(deadline)
        return solve_by_levels(
            problem, session, method, time_limit_s=left, bound_ns=record.bound_ns
        )
    there = Session(graph=moved.graph, seed=session.seed)
    budget = problem.available_bytes
    baseline = there.facts.baseline()
    if there.facts.evaluate(baseline)[0] <= budget:
        return moved.attempt(Attempt(orders=(baseline,), method="none"))
    asked = dataclasses.replace(problem, graph=moved.graph)
    found = solve_by_levels(asked, there, method, time_limit_s=seconds_left(deadline))
    attempt = moved.attempt(found)
    cost = _least_cost(there.facts, found, budget)
    if cost <= lower_bound_ns(problem, time_limit_s=seconds_left(deadline)):
        return attempt
    from autockpt_solvers.methods.heuristics import solve_heuristics

    own = solve_by_levels(problem, session, solve_heuristics, time_limit_s=seconds_left(deadline))
    is_better = _least_cost(session.facts, own, budget) < cost
    return Attempt(
        orders=(*attempt.orders, *own.orders),
        method=record.credits if is_better else attempt.method,
    )


def ask_least(
    session: Session, record: Record, *, time_limit_s: float
) -> tuple[int, Sequence[int] | None]:
    """The smallest budget for which `ask` finds a plan, and that plan."""
    deadline = time.monotonic() + time_limit_s
    method = record.load()
    moved = find_order(session.graph, time_limit_s=time_limit_s) if record.may_reorder else None
    if moved is None:
        return least_by_levels(session, method, time_limit_s=seconds_left(deadline))
    from autockpt_solvers.methods.heuristics import solve_heuristics

    there = Session(graph=moved.graph, seed=session.seed)
    baseline = there.facts.baseline()
    found: list[tuple[int, Sequence[int] | None]] = [
        (there.facts.evaluate(baseline)[0], moved.originally(baseline))
    ]
    floor, order = least_by_levels(there, method, time_limit_s=seconds_left(deadline))
    found.append((floor, None if order is None else moved.originally(order)))
    found.append(least_by_levels(session, solve_heuristics, time_limit_s=seconds_left(deadline)))
    return min((least for least in found if least[1] is not None), key=lambda least: least[0])


def _least_cost(facts: GraphFacts, attempt: Attempt, budget: int) -> float:
    """The recompute time of the cheapest plan that fits; infinite if none does."""
    evaluated = map(facts.evaluate, attempt.offered)
    return min((cost for peak, cost in evaluated if peak <= budget), default=math.inf)
