"""The bounds that `solve` reports beside an answer.

Each bound holds for a class of plans. An answer is compared with the narrowest class that it
belongs to, because a bound for plans that run each backward op once says nothing about others.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import EVERY_PLAN, Attempt
from autockpt_solvers.bounds.least import least_peak_bytes
from autockpt_solvers.bounds.peak import least_op_bytes, lower_bound_bytes
from autockpt_solvers.bounds.recomputation import any_plan_bound_ns, lower_bound_ns
from autockpt_solvers.orders.reordered import with_backward

if TYPE_CHECKING:
    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.schedule import Schedule
    from autockpt_solvers.session import Session

IN_ORDER_CLASS = "each backward op once, in the graph's order; forward ops at will"
MOVED_CLASS = "each backward op once, in an order chosen beforehand; forward ops at will"


def class_of(graph: ComputeGraph, schedule: Schedule) -> tuple[str, ComputeGraph]:
    """The narrowest class of plans that a schedule belongs to.

    Returns:
        The class, and the graph with its backward ops in the order of that class.
    """
    own = list(range(graph.num_forward, len(graph.ops)))
    backward = [op for op in schedule.compute_order if op >= graph.num_forward]
    if not own or sorted(backward) != own:
        return EVERY_PLAN, graph
    if backward == own:
        return IN_ORDER_CLASS, graph
    return MOVED_CLASS, with_backward(graph, backward).graph


def own_order(graph: ComputeGraph) -> tuple[int, ...]:
    """The backward ops in the graph's order."""
    return tuple(range(graph.num_forward, len(graph.ops)))


def bound_in_order_ns(
    problem: Problem, session: Session, backward: tuple[int, ...], *, time_limit_s: float
) -> int:
    """Recompute time of every plan that runs the backward ops once, in a given order.

    It is kept in the session; if time ended it, it is worked out again when there is more.

    Args:
        problem: The problem, with the backward ops in that order.
        session: The session of the search.
        backward: The backward ops in that order, as the original graph numbers them.
        time_limit_s: Ends the search; the bound reached by then holds.
    """
    clock, known = session.clock, session.order_bounds_ns
    key = (backward, problem.available_bytes)
    bound_ns, is_done = known.get(key, (0, False))
    if not is_done and not clock.is_over:
        deadline = clock.until(time_limit_s)
        more_ns = lower_bound_ns(problem, time_limit_s=time_limit_s, clock=clock)
        known[key] = (max(bound_ns, more_ns), clock.now() < deadline)
        bound_ns = known[key][0]
    return bound_ns


def least_bytes(graph: ComputeGraph, schedule: Schedule, attempt: Attempt) -> tuple[int, str]:
    """The highest proven bound on the peak that the leanest schedule does not contradict.

    Returns:
        The bound, and the class of plans that it holds for.
    """
    bounds = [(least_op_bytes(graph), EVERY_PLAN)]
    bound_class, as_run = class_of(graph, schedule)
    if bound_class != EVERY_PLAN:
        bounds.append((least_peak_bytes(as_run), bound_class))
    if attempt.bound_class:
        bounds.append((attempt.lower_bound_bytes, attempt.bound_class))
    # Of equal bounds, `max` takes the first, which holds for most plans.
    return max(bounds, key=lambda bound: bound[0])


def bounds_of(
    problem: Problem,
    schedule: Schedule,
    attempt: Attempt,
    *,
    is_free: bool,
    session: Session,
) -> tuple[str, int, int]:
    """Lower bounds for plans of a schedule's class, or of the class for which a method has one.

    Args:
        problem: The problem.
        schedule: A schedule that fits.
        attempt: What the method offers and proves.
        is_free: Whether the schedule recomputes nothing; then no bound is computed.
        session: The session of the search, whose clock ends the search for a bound.

    Returns:
        The class, the least recompute time in ns, and the least peak in bytes.
    """
    graph = problem.graph
    own_class, as_run = class_of(graph, schedule)
    bound_class, bound_ns = own_class, 0
    if not is_free:
        in_order = dataclasses.replace(problem, graph=as_run)
        if own_class == EVERY_PLAN:
            bound_ns = _least_ns(in_order, attempt, session)
        else:
            backward = tuple(op for op in schedule.compute_order if op >= graph.num_forward)
            left = session.clock.seconds_left(session.clock.end)
            bound_ns = bound_in_order_ns(in_order, session, backward, time_limit_s=left)
    if attempt.bound_class and attempt.lower_bound_ns > bound_ns:
        bound_ns, bound_class = attempt.lower_bound_ns, attempt.bound_class
    is_own = bound_class == own_class != EVERY_PLAN
    bound_bytes = lower_bound_bytes(as_run) if is_own else least_op_bytes(graph)
    if attempt.bound_class in (bound_class, EVERY_PLAN):
        bound_bytes = max(bound_bytes, attempt.lower_bound_bytes)
    return bound_class, bound_ns, bound_bytes


def _least_ns(problem: Problem, attempt: Attempt, session: Session) -> int:
    """A bound on the recompute time of every plan that fits."""
    clock = session.clock
    left = clock.seconds_left(clock.end)
    if problem.graph.num_forward < len(problem.graph.ops):
        return 0 if clock.is_over else any_plan_bound_ns(problem, time_limit_s=left, clock=clock)
    if attempt.bound_class == EVERY_PLAN:
        return attempt.lower_bound_ns
    from autockpt_solvers.bounds.moments import solve_relaxations

    found = solve_relaxations(problem, time_limit_s=left, seed=session.seed, clock=clock)
    return found.bound_ns
