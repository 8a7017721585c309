"""What is proven beside an answer: the plans it is measured against, and what they cannot do.

A bound holds for a class of plans, and an answer is measured against the narrowest class that it is
of: a bound for plans that run each backward op once would say of another that it cannot be.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import EVERY_PLAN, Attempt
from autockpt_solvers.bounds.bound import (
    BOUND_CLASS,
    MOVED_CLASS,
    least_op_bytes,
    lower_bound_bytes,
    lower_bound_ns,
    turn_bound_ns,
)
from autockpt_solvers.orders.reordered import with_backward

if TYPE_CHECKING:
    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.schedule import Schedule


def class_of(graph: ComputeGraph, schedule: Schedule) -> tuple[str, ComputeGraph]:
    """The class of plans that a schedule is measured against: the narrowest that it is of.

    Returns:
        The class, and the graph with its backward ops in the class's order.
    """
    own = list(range(graph.num_forward, len(graph.ops)))
    backward = [op for op in schedule.compute_order if op >= graph.num_forward]
    if not own or sorted(backward) != own:
        return EVERY_PLAN, graph
    if backward == own:
        return BOUND_CLASS, graph
    return MOVED_CLASS, with_backward(graph, backward).graph


def least_bytes(graph: ComputeGraph, schedule: Schedule, attempt: Attempt) -> tuple[int, str]:
    """The highest bound on the peak that is proven for a class, and the class.

    Where the leanest schedule runs backward ops again, or in another order than a bound's, that
    bound would say that it cannot be.
    """
    bounds = [(least_op_bytes(graph), EVERY_PLAN)]
    bound_class, as_run = class_of(graph, schedule)
    if bound_class != EVERY_PLAN:
        bounds.append((lower_bound_bytes(as_run), bound_class))
    if attempt.bound_class:
        bounds.append((attempt.lower_bound_bytes, attempt.bound_class))
    # Of equal ones the first, which holds for most plans.
    return max(bounds, key=lambda bound: bound[0])


def bounds_of(
    problem: Problem,
    schedule: Schedule,
    attempt: Attempt,
    *,
    is_free: bool,
    time_limit_s: float,
    seed: int,
) -> tuple[str, int, int]:
    """What no plan that fits can do, of a schedule's class or of the one that its method proves.

    Args:
        problem: The problem.
        schedule: A schedule that fits.
        attempt: What its method offers, and proves.
        is_free: Whether the schedule recomputes nothing, which needs no bound.
        time_limit_s: Ends the search for a bound.
        seed: Random seed.

    Returns:
        The class, the least recomputation in ns, and the least peak in bytes.
    """
    graph = problem.graph
    own_class, as_run = class_of(graph, schedule)
    bound_class, bound_ns = own_class, 0
    if not is_free:
        in_order = dataclasses.replace(problem, graph=as_run)
        if own_class == EVERY_PLAN:
            bound_ns = _least_ns(in_order, attempt, time_limit_s, seed)
        else:
            bound_ns = lower_bound_ns(in_order, time_limit_s=time_limit_s)
    if attempt.bound_class and attempt.lower_bound_ns > bound_ns:
        bound_ns, bound_class = attempt.lower_bound_ns, attempt.bound_class
    is_own = bound_class == own_class != EVERY_PLAN
    bound_bytes = lower_bound_bytes(as_run) if is_own else least_op_bytes(graph)
    if attempt.bound_class in (bound_class, EVERY_PLAN):
        bound_bytes = max(bound_bytes, attempt.lower_bound_bytes)
    return bound_class, bound_ns, bound_bytes


def _least_ns(problem: Problem, attempt: Attempt, time_limit_s: float, seed: int) -> int:
    """What no plan at all that fits recomputes less than."""
    if problem.graph.num_forward < len(problem.graph.ops):
        return turn_bound_ns(problem, time_limit_s=time_limit_s)
    if attempt.bound_class == EVERY_PLAN:
        return attempt.lower_bound_ns
    from autockpt_solvers.bounds.moments import solve_relaxations

    return solve_relaxations(problem, time_limit_s=time_limit_s, seed=seed).bound_ns
