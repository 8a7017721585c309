"""The engine's one verb: `solve`, and `minimum_budget` beside it."""

from __future__ import annotations

import math
import time
from importlib import import_module
from typing import TYPE_CHECKING, cast

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.bounds.bound import least_op_bytes, lower_bound_bytes
from autockpt_solvers.bounds.proof import bounds_of, least_bytes
from autockpt_solvers.orders.facts import Orders
from autockpt_solvers.problem import Problem
from autockpt_solvers.result import MinimumBudget, Result, SolveStatus
from autockpt_solvers.schedule import Schedule, with_frees
from autockpt_solvers.search.ask import is_search, search, search_least
from autockpt_solvers.simulator import simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.attempt import Method
    from autockpt_solvers.graph import ComputeGraph

# Methods are imported when they are chosen: OR-Tools alone takes a third of a second.
_METHODS = {
    "none": ("none", "solve_none"),
    "full": ("reference.full", "solve_full"),
    "sqrt": ("reference.uniform", "solve_sqrt"),
    "uniform": ("reference.uniform", "solve_uniform"),
    "revolve": ("reference.revolve", "solve_revolve"),
    "chain": ("reference.chain", "solve_chain"),
    "greedy": ("greedy", "solve_greedy"),
    "mincut": ("mincut", "solve_mincut"),
    "exact": ("reference.exact", "solve_exact"),
    "intervals": ("any_order.intervals", "solve_intervals"),
    "ilp": ("ilp", "solve_ilp"),
    "local": ("local", "solve_local"),
    "moments": ("any_order.moments", "solve_moments"),
}
# They look for the least peak where nothing fits, and may run backward ops again to get there.
_PROGRAMS = ("exact", "intervals")
_AUTO = ("auto", "solve_auto")


class MethodError(RuntimeError):
    """A callable that was given as a method raised, or returned what is no schedule."""


def method_names() -> tuple[str, ...]:
    """Names that `solve` knows, `auto` first."""
    return ("auto", *_METHODS)


def find_method(method: str | Method) -> tuple[str, Method]:
    """Resolves a method's name.

    Args:
        method: A name from `method_names()`, or a callable.

    Returns:
        Its name and the callable.

    Raises:
        ValueError: If the name is not known.
    """
    if not isinstance(method, str):
        return getattr(method, "__name__", type(method).__name__), method
    if method != "auto" and method not in _METHODS:
        known = ", ".join(repr(m) for m in method_names())
        raise ValueError(f"unknown method {method!r}; use one of {known}, or a callable")
    module, function = _AUTO if method == "auto" else _METHODS[method]
    found = import_module(f"autockpt_solvers.methods.{module}")
    return method, cast("Method", getattr(found, function))


def solve(
    problem: Problem, *, method: str | Method = "auto", time_limit_s: float = 60.0, seed: int = 0
) -> Result:
    """Finds a schedule that fits the budget and recomputes as little as the method can manage.

    With a method of `method_names()`, on a graph with a backward pass, a larger budget never gives
    a slower schedule as long as the time limit does not end the search.

    Args:
        problem: What to solve.
        method: A name from `method_names()`, or a callable with the signature of `Method`.
        time_limit_s: Ends the search, not the result: a method answers with the best it has. What
            numba compiles once per installation comes on top.
        seed: Equal problems with equal seeds give equal schedules.

    Returns:
        The result; its status is INFEASIBLE when no schedule of the method fits.

    Raises:
        ValueError: If the method is not known, the time limit is not positive, or the graph is too
            large for the method.
        MethodError: If a callable raises, or returns what is no schedule.
        ScheduleError: If a callable returns a schedule that would not run.
    """
    if not 0 < time_limit_s < math.inf:
        raise ValueError(f"time_limit_s is {time_limit_s}; it must be above 0, and finite")
    started = time.monotonic()
    name, function = find_method(method)
    orders = Orders(problem.graph)
    baseline = orders.baseline()
    if orders.evaluate(baseline)[0] <= problem.room_bytes:
        attempt = Attempt(orders=(baseline,))
        name = "none" if name == "auto" else name
    elif isinstance(method, str) and is_search(method, problem.graph):
        attempt = search(problem, method, function, time_limit_s=time_limit_s, seed=seed)
    else:
        attempt = _asked(method, problem, time_limit_s, seed)
    return _judge(problem, name, attempt, started, time_limit_s, seed)


def minimum_budget(
    graph: ComputeGraph, *, method: str | Method = "auto", time_limit_s: float = 60.0, seed: int = 0
) -> MinimumBudget:
    """Finds the least budget that a method can meet, and what no schedule can go below.

    Args:
        graph: The graph.
        method: As in `solve`.
        time_limit_s: As in `solve`.
        seed: As in `solve`.

    Returns:
        The least budget, a schedule that fits it, and the bound. `solve` with the same method of
        `method_names()` finds a schedule for that budget and none for one byte less, unless a time
        limit interferes. On a graph without a backward pass, `auto`, `ilp`, `local` and `moments`
        are asked for the bound alone: the schedule fits, but a search for that budget may reach
        less, or not so little.
    """
    _, function = find_method(method)
    orders = Orders(graph)
    found: list[Sequence[int]] = [orders.baseline()]
    floor = 0
    attempt = Attempt(orders=())
    if orders.evaluate(found[0])[0] <= least_op_bytes(graph):
        pass  # no method could do better
    elif isinstance(method, str) and is_search(method, graph):
        floor, order = search_least(graph, method, function, time_limit_s=time_limit_s, seed=seed)
        found += [order] if order is not None else []
    else:
        # A bound for plans that run each backward op once is no bound for the programs.
        room = 0 if method in _PROGRAMS else lower_bound_bytes(graph)
        attempt = _asked(method, Problem(graph=graph, budget_bytes=room), time_limit_s, seed)
        found += [*attempt.fixed, *attempt.orders]
    leanest = min(found, key=lambda order: orders.evaluate(order)[0])
    schedule = with_frees(graph, leanest)
    # A search by levels answers from a level's room on, even where its plan needs less.
    least = max(simulate(graph, schedule).peak_bytes, floor)
    bound, bound_class = least_bytes(graph, schedule, attempt)
    return MinimumBudget(
        peak_bytes=least, lower_bound_bytes=bound, bound_class=bound_class, schedule=schedule
    )


def _asked(method: str | Method, problem: Problem, time_limit_s: float, seed: int) -> Attempt:
    """What a method answers."""
    name, function = find_method(method)
    try:
        answer = function(problem, time_limit_s=time_limit_s, seed=seed)
    except Exception as error:
        if isinstance(method, str):
            raise
        raise MethodError(
            f"method {name!r} raised {type(error).__name__}: {error}; a method must answer "
            "with a Schedule, or None where it finds nothing"
        ) from error
    if isinstance(answer, Schedule):
        simulate(problem.graph, answer)
        return Attempt(orders=(answer.compute_order,))
    if answer is None:
        return Attempt(orders=())
    if not isinstance(answer, Attempt):
        raise MethodError(
            f"method {name!r} returned {type(answer).__name__}; it must return a Schedule, an "
            "Attempt, or None"
        )
    if not isinstance(method, str):
        for order in (*answer.fixed, *answer.orders):
            simulate(problem.graph, with_frees(problem.graph, order))
    return answer


def _judge(
    problem: Problem, name: str, attempt: Attempt, started: float, time_limit_s: float, seed: int
) -> Result:
    """Replays the best that the method offers, and the leanest, and keeps the best that fits."""
    graph, orders = problem.graph, Orders(problem.graph)
    offered = (*attempt.fixed, *attempt.offered) or (orders.baseline(),)
    schedules = [with_frees(graph, order) for order in orders.best(offered, problem.room_bytes)]
    replays = [(simulate(graph, schedule), schedule) for schedule in schedules]
    minimum, leanest = min(
        ((timeline.peak_bytes, schedule) for timeline, schedule in replays), key=lambda r: r[0]
    )
    name = attempt.method or name
    fitting = [
        (t.recompute_ns, t.peak_bytes, k)
        for k, (t, _) in enumerate(replays)
        if t.peak_bytes <= problem.room_bytes
    ]
    if not fitting:
        least, bound_class = least_bytes(graph, leanest, attempt)
        return Result(
            status=SolveStatus.INFEASIBLE,
            schedule=None,
            recompute_ns=0,
            peak_bytes=minimum + problem.fixed_bytes,
            lower_bound_ns=0,
            lower_bound_bytes=least + problem.fixed_bytes,
            bound_class=bound_class,
            minimum_peak_bytes=minimum + problem.fixed_bytes,
            solve_time_s=time.monotonic() - started,
            method=name,
        )
    recompute, peak, best = min(fitting)
    schedule = replays[best][1]
    left = max(0.5, time_limit_s - (time.monotonic() - started))
    bound_class, bound, bound_bytes = bounds_of(
        problem, schedule, attempt, is_free=not recompute, time_limit_s=left, seed=seed
    )
    return Result(
        status=SolveStatus.OPTIMAL if recompute <= bound else SolveStatus.FEASIBLE,
        schedule=schedule,
        recompute_ns=recompute,
        peak_bytes=peak + problem.fixed_bytes,
        lower_bound_ns=min(bound, recompute),
        lower_bound_bytes=bound_bytes + problem.fixed_bytes,
        bound_class=bound_class,
        minimum_peak_bytes=minimum + problem.fixed_bytes,
        solve_time_s=time.monotonic() - started,
        method=name,
    )
