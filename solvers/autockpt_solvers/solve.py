"""The engine's one verb: `solve`, and `minimum_budget` beside it."""

from __future__ import annotations

import time
from importlib import import_module
from typing import TYPE_CHECKING, cast

from autockpt_solvers.methods.attempt import Attempt
from autockpt_solvers.methods.bound import BOUND_CLASS, lower_bound_bytes, lower_bound_ns
from autockpt_solvers.methods.orders import Orders
from autockpt_solvers.result import MinimumBudget, Result, SolveStatus
from autockpt_solvers.schedule import Schedule, with_frees
from autockpt_solvers.simulate import simulate

if TYPE_CHECKING:
    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.methods.attempt import Method
    from autockpt_solvers.problem import Problem

# Methods are imported when they are chosen: OR-Tools alone takes a third of a second.
_METHODS = {
    "none": ("none", "solve_none"),
    "full": ("full", "solve_full"),
    "sqrt": ("uniform", "solve_sqrt"),
    "uniform": ("uniform", "solve_uniform"),
    "revolve": ("revolve", "solve_revolve"),
    "chain": ("chain", "solve_chain"),
    "greedy": ("greedy", "solve_greedy"),
    "mincut": ("mincut", "solve_mincut"),
    "exact": ("exact", "solve_exact"),
    "intervals": ("intervals", "solve_intervals"),
    "ilp": ("ilp", "solve_ilp"),
    "local": ("local", "solve_local"),
}
_AUTO = ("auto", "solve_auto")


def methods() -> tuple[str, ...]:
    """Names that `solve` knows, `auto` first."""
    return ("auto", *_METHODS)


def find_method(method: str | Method) -> tuple[str, Method]:
    """Resolves a method's name.

    Args:
        method: A name from `methods()`, or a callable.

    Returns:
        Its name and the callable.

    Raises:
        ValueError: If the name is not known.
    """
    if not isinstance(method, str):
        return getattr(method, "__name__", type(method).__name__), method
    if method != "auto" and method not in _METHODS:
        known = ", ".join(repr(m) for m in methods())
        raise ValueError(f"unknown method {method!r}; use one of {known}, or a callable")
    module, function = _AUTO if method == "auto" else _METHODS[method]
    found = import_module(f"autockpt_solvers.methods.{module}")
    return method, cast("Method", getattr(found, function))


def solve(
    problem: Problem, *, method: str | Method = "auto", time_limit_s: float = 60.0, seed: int = 0
) -> Result:
    """Finds a schedule that fits the budget and recomputes as little as the method can manage.

    Args:
        problem: What to solve.
        method: A name from `methods()`, or a callable with the signature of `Method`.
        time_limit_s: Ends the search, not the result: a method answers with the best it has.
        seed: Equal problems with equal seeds give equal schedules.

    Returns:
        The result; its status is INFEASIBLE when no schedule of the method fits.

    Raises:
        ValueError: If the method is not known or the time limit is not positive.
        ScheduleError: If a method, one handed in for instance, gives a schedule that would not run.
    """
    if time_limit_s <= 0:
        raise ValueError(f"time_limit_s is {time_limit_s}; it must be above 0")
    started = time.monotonic()
    name, function = find_method(method)
    graph = problem.graph
    orders = Orders(graph)
    baseline = with_frees(graph, orders.baseline())
    if simulate(graph, baseline).peak_bytes <= problem.room_bytes:
        attempt = Attempt(schedules=(baseline,), proven_optimal=True)
        name = "none" if name == "auto" else name
        bound = 0
    else:
        answer = function(problem, time_limit_s=time_limit_s, seed=seed)
        attempt = _as_attempt(answer)
        left = max(0.5, time_limit_s - (time.monotonic() - started))
        bound = lower_bound_ns(problem, time_limit_s=left)
    return _judge(problem, name, attempt, bound, started)


def minimum_budget(
    graph: ComputeGraph, *, method: str | Method = "auto", time_limit_s: float = 60.0, seed: int = 0
) -> MinimumBudget:
    """Finds the least peak that a method can reach, and what no schedule can go below.

    Args:
        graph: The graph.
        method: As in `solve`.
        time_limit_s: As in `solve`.
        seed: As in `solve`.

    Returns:
        The least peak, a schedule with it, and the bound.
    """
    from autockpt_solvers.problem import Problem

    _, function = find_method(method)
    bound = lower_bound_bytes(graph)
    problem = Problem(graph=graph, budget_bytes=bound)
    attempt = _as_attempt(function(problem, time_limit_s=time_limit_s, seed=seed))
    baseline = with_frees(graph, Orders(graph).baseline())
    peaks = [(simulate(graph, s).peak_bytes, k) for k, s in enumerate(attempt.schedules)]
    peaks.append((simulate(graph, baseline).peak_bytes, len(peaks)))
    peak, best = min(peaks)
    return MinimumBudget(
        peak_bytes=peak,
        lower_bound_bytes=bound,
        schedule=(*attempt.schedules, baseline)[best],
    )


def _as_attempt(answer: Attempt | Schedule | None) -> Attempt:
    if isinstance(answer, Schedule):
        return Attempt(schedules=(answer,))
    return answer or Attempt(schedules=())


def _judge(problem: Problem, name: str, attempt: Attempt, bound: int, started: float) -> Result:
    """Replays what the method offers and keeps the best that fits."""
    replays = [(simulate(problem.graph, s), s) for s in attempt.schedules]
    minimum = min((t.peak_bytes for t, _ in replays), default=None)
    if minimum is None:
        minimum = simulate(
            problem.graph, with_frees(problem.graph, Orders(problem.graph).baseline())
        ).peak_bytes
    name = attempt.method or name
    fitting = [
        (t.recompute_ns, t.peak_bytes, k)
        for k, (t, _) in enumerate(replays)
        if t.peak_bytes <= problem.room_bytes
    ]
    proven_bytes, bytes_class = lower_bound_bytes(problem.graph), BOUND_CLASS
    if attempt.lower_bound_bytes > proven_bytes:
        proven_bytes, bytes_class = attempt.lower_bound_bytes, attempt.bound_class
    if not fitting:
        return Result(
            status=SolveStatus.INFEASIBLE,
            schedule=None,
            recompute_ns=0,
            peak_bytes=minimum + problem.fixed_bytes,
            lower_bound_ns=0,
            lower_bound_bytes=proven_bytes + problem.fixed_bytes,
            bound_class=bytes_class,
            minimum_peak_bytes=minimum + problem.fixed_bytes,
            solve_time_s=time.monotonic() - started,
            method=name,
        )
    recompute, peak, best = min(fitting)
    bound_class = BOUND_CLASS
    if attempt.bound_class and attempt.lower_bound_ns > bound:
        bound, bound_class = attempt.lower_bound_ns, attempt.bound_class
    optimal = attempt.proven_optimal or recompute <= bound
    return Result(
        status=SolveStatus.OPTIMAL if optimal else SolveStatus.FEASIBLE,
        schedule=attempt.schedules[best],
        recompute_ns=recompute,
        peak_bytes=peak + problem.fixed_bytes,
        lower_bound_ns=min(bound, recompute),
        lower_bound_bytes=lower_bound_bytes(problem.graph) + problem.fixed_bytes,
        bound_class=bound_class,
        minimum_peak_bytes=minimum + problem.fixed_bytes,
        solve_time_s=time.monotonic() - started,
        method=name,
    )
