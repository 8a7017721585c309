"""How `solve` asks a method: in which order of the backward, then level by level.

`ilp` and `auto` first look for an order of the backward ops that needs less memory (`backward`).
Then every method whose answer depends on the budget is asked by levels (`levels`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.bounds.peak import lower_bound_bytes
from autockpt_solvers.bounds.proof import bound_in_order_ns, own_order
from autockpt_solvers.search.least import least_plan, reordered
from autockpt_solvers.search.levels import least_by_levels, solve_by_levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.methods.registry import Record
    from autockpt_solvers.orders.facts import GraphFacts
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import Session

# Of the time limit, at most. Zoo graphs need a few percent of a minute.
_SHARE_OF_BOUND = 0.2
_QUICK_S = 1.0  # for the search, if a bound proves that no plan fits


def is_asked_by_levels(record: Record, graph: ComputeGraph) -> bool:
    """Whether to ask a method by levels: it is a search, and there are bounds for the graph."""
    return record.is_search and 0 < graph.num_forward < len(graph.ops)


def ask(problem: Problem, session: Session, record: Record, *, time_limit_s: float) -> Attempt:
    """Ask a method for plans; a larger budget never costs more.

    A method that descends is not asked for less than its least budget, and always offers the plan
    for that.

    Args:
        problem: The problem; its budget is below the baseline's peak.
        session: The session of its graph.
        record: The method; `is_asked_by_levels` holds for it.
        time_limit_s: Ends the search.
    """
    if not record.descends:
        return _searched(problem, session, record, time_limit_s)
    deadline = session.clock.until(time_limit_s)
    least = least_plan(session, record)
    if session.facts.evaluate(least)[0] > problem.available_bytes:
        return Attempt(orders=(least,))
    left = session.clock.seconds_left(deadline)
    attempt = _searched(problem, session, record, left)
    return dataclasses.replace(attempt, orders=(*attempt.orders, least))


def _searched(problem: Problem, session: Session, record: Record, time_limit_s: float) -> Attempt:
    """Search by levels.

    If the backward was reordered, heuristics search in the graph's own order too, unless the bound
    proves that they cannot do better.
    """
    clock = session.clock
    deadline = clock.until(time_limit_s)
    method = record.load()
    moved, there = reordered(session, may_reorder=record.may_reorder)
    if moved is None:
        if record.is_in_order:
            if problem.available_bytes < lower_bound_bytes(problem.graph):
                return _quick_plans(problem, session, record)
            _prove_first(problem, session, own_order(problem.graph), time_limit_s)
        left = clock.seconds_left(deadline)
        return solve_by_levels(
            problem, session, method, time_limit_s=left, bound_ns=record.bound_ns
        )
    budget = problem.available_bytes
    baseline = there.facts.baseline()
    if there.facts.evaluate(baseline)[0] <= budget:
        return moved.attempt(Attempt(orders=(baseline,), method="none"))
    asked = dataclasses.replace(problem, graph=moved.graph)
    _prove_first(asked, there, moved.originals[problem.graph.num_forward :], time_limit_s)
    found = solve_by_levels(asked, there, method, time_limit_s=clock.seconds_left(deadline))
    attempt = moved.attempt(found)
    cost = _least_cost(there.facts, found, budget)
    if clock.is_over:
        return attempt
    clock.begin("comparing with the graph's own order")
    left = clock.seconds_left(deadline)
    own = own_order(problem.graph)
    if cost <= bound_in_order_ns(problem, session, own, time_limit_s=left):
        return attempt
    from autockpt_solvers.methods.heuristics import solve_heuristics

    left = clock.seconds_left(deadline)
    more = solve_by_levels(problem, session, solve_heuristics, time_limit_s=left)
    is_better = _least_cost(session.facts, more, budget) < cost
    return Attempt(
        orders=(*attempt.orders, *more.orders),
        method=record.credits if is_better else attempt.method,
    )


def ask_least(
    session: Session, record: Record, *, time_limit_s: float
) -> tuple[int, Sequence[int] | None]:
    """The smallest budget for which `ask` finds a plan, and that plan."""
    if record.descends:
        order = least_plan(session, record)
        return session.facts.evaluate(order)[0], order
    return least_by_levels(session, record.load(), time_limit_s=time_limit_s)


def _quick_plans(problem: Problem, session: Session, record: Record) -> Attempt:
    """What a method finds at once, for a budget that no plan can meet."""
    found = record.load()(problem, session, time_limit_s=_QUICK_S)
    return Attempt(orders=(session.facts.baseline(), *found.offered))


def _prove_first(
    problem: Problem, session: Session, backward: tuple[int, ...], time_limit_s: float
) -> None:
    """Work out the bound that the answer is compared with, and tell it."""
    session.clock.begin("proving a lower bound")
    seconds = time_limit_s * _SHARE_OF_BOUND
    session.clock.proved(bound_in_order_ns(problem, session, backward, time_limit_s=seconds))


def _least_cost(facts: GraphFacts, attempt: Attempt, budget: int) -> float:
    """The recompute time of the cheapest plan that fits; infinite if none does."""
    evaluated = map(facts.evaluate, attempt.offered)
    return min((cost for peak, cost in evaluated if peak <= budget), default=math.inf)
