"""The engine's entry points: `solve`, `minimum_budget` and `judge`."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import traceback
from numbers import Real
from typing import TYPE_CHECKING, cast

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.bounds.peak import least_op_bytes, lower_bound_bytes
from autockpt_solvers.bounds.proof import bounds_of, least_bytes
from autockpt_solvers.clock import Clock
from autockpt_solvers.graph import check_integer
from autockpt_solvers.methods.registry import METHODS
from autockpt_solvers.near_names import meant
from autockpt_solvers.orders.facts import GraphFacts
from autockpt_solvers.plugins import find_plugin, plugin_names
from autockpt_solvers.problem import Problem
from autockpt_solvers.result import MinimumBudget, Result, SolveStatus
from autockpt_solvers.schedule import Schedule, with_frees
from autockpt_solvers.search.ask import ask, ask_least, is_asked_by_levels
from autockpt_solvers.search.least import least_plan
from autockpt_solvers.session import Session
from autockpt_solvers.simulator import ScheduleError, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autockpt_solvers.attempt import Method
    from autockpt_solvers.clock import Watcher
    from autockpt_solvers.graph import ComputeGraph


_LARGEST_SEED = 2**31 - 1  # what CP-SAT takes
GROUP = "autockpt.methods"  # of entry points


class MethodError(RuntimeError):
    """A callable given as a method raised, or did not return a schedule."""


def method_names() -> tuple[str, ...]:
    """The names of the engine's own methods, `auto` first."""
    return tuple(METHODS)


def check_method(method: str | Method) -> None:
    """Raise ValueError if `method` is a name that `solve` does not know."""
    found_method(method)


def found_method(method: str | Method) -> str | Method:
    """The method, loaded if its name is an entry point of another package.

    Raises:
        ValueError: There is no such name, or the entry point cannot be loaded.
    """
    if not isinstance(method, str) or method in METHODS:
        return method
    others = plugin_names(GROUP)
    if method not in others:
        names = (*METHODS, *others)
        known = ", ".join(map(repr, names))
        raise ValueError(
            f"unknown method {method!r}; {meant(method, names)}use one of {known}, or a callable"
        )
    return cast("Method", find_plugin(GROUP, method))


def baseline_schedule(graph: ComputeGraph) -> Schedule:
    """The schedule that runs no op twice, and ops that only the backward needs just before it."""
    return with_frees(graph, GraphFacts(graph).baseline())


def solve(
    problem: Problem,
    *,
    method: str | Method = "auto",
    time_limit_s: float = 60.0,
    seed: int = 0,
    watch: Watcher | None = None,
) -> Result:
    """Find a schedule that fits the budget and recomputes as little as the method can manage.

    With a named method, on a graph with a backward pass, a larger budget never gives a slower
    schedule unless the time limit ends the search.

    Args:
        problem: The problem.
        method: One of `method_names()`, the name of an entry point of `autockpt.methods`, or a
            callable with the signature of `Method`.
        time_limit_s: Ends the search and the proofs. The best schedule so far is returned. The time
            in which numba compiles, once per installation, is not included.
        seed: From 0 to 2**31 - 1. Equal problems with equal seeds give equal schedules.
        watch: Called several times per second with a `SearchReport`. It may end the search by
            raising `StopSearch`.

    Returns:
        The result. `Result.schedule` is None if no schedule fits; the status says why.

    Raises:
        TypeError: The time limit is not a number, or the seed is not an int.
        ValueError: The method is unknown, the time limit is not positive, the seed is out of range,
            or the graph is too large for the method.
        MethodError: A callable raised, or did not return a schedule.
        ScheduleError: A callable returned a schedule that cannot run.
    """
    method = found_method(method)
    check_limits(time_limit_s, seed)
    with clock_of(time_limit_s, watch, problem.available_bytes) as clock:
        return _solved(problem, method, Session(graph=problem.graph, seed=seed, clock=clock))


def _solved(problem: Problem, method: str | Method, session: Session) -> Result:
    clock = session.clock
    baseline = session.facts.baseline()
    name = method if isinstance(method, str) else name_of(method)
    if session.facts.evaluate(baseline)[0] <= problem.available_bytes:
        attempt = Attempt(orders=(baseline,))
        name = "none" if name == "auto" else name
    elif not isinstance(method, str):
        attempt = ask_callable(method, problem, clock.seconds_left(clock.end), session.seed)
    elif is_asked_by_levels(METHODS[method], problem.graph):
        left = clock.seconds_left(clock.end)
        attempt = ask(problem, session, METHODS[method], time_limit_s=left)
    else:
        left = clock.seconds_left(clock.end)
        attempt = METHODS[method].load()(problem, session, time_limit_s=left)
    offered = attempt.offered or (baseline,)
    best = session.facts.best(offered, problem.available_bytes)
    schedules = [with_frees(problem.graph, order) for order in best]
    known = _least_known(method, session)
    result = judged(problem, schedules, attempt, attempt.method or name, session, known)
    return dataclasses.replace(result, has_offered=bool(attempt.offered))


def _least_known(method: str | Method, session: Session) -> MinimumBudget | None:
    """The smallest budget that a method knows beforehand; None if that takes a search."""
    if not isinstance(method, str) or not METHODS[method].descends:
        return None
    if not is_asked_by_levels(METHODS[method], session.graph):
        return None
    schedule = with_frees(session.graph, least_plan(session, METHODS[method]))
    return minimum_of(session.graph, schedule, Attempt(orders=()))


def judge(
    problem: Problem,
    schedule: Schedule,
    *,
    time_limit_s: float = 60.0,
    watch: Watcher | None = None,
) -> Result:
    """Replay a schedule and say what it costs, whether it fits, and how good it can be at most.

    Args:
        problem: The problem that the schedule is for.
        schedule: The schedule.
        time_limit_s: Ends the search for a lower bound.
        watch: As in `solve`.

    Returns:
        The result, as `solve` would give it if a method had found the schedule. If the schedule
        does not fit, `Result.schedule` is None and `peak_bytes` is the peak of the schedule; the
        status is INFEASIBLE if a bound proves that none fits, and NOT_FOUND otherwise.

    Raises:
        TypeError: The time limit is not a number.
        ValueError: The time limit is not positive.
        ScheduleError: The schedule cannot run.
    """
    check_limits(time_limit_s, 0)
    with clock_of(time_limit_s, watch, problem.available_bytes) as clock:
        session = Session(graph=problem.graph, seed=0, clock=clock)
        return judged(problem, [schedule], Attempt(orders=()), "given", session)


def minimum_budget(
    graph: ComputeGraph,
    *,
    method: str | Method = "auto",
    time_limit_s: float = 60.0,
    seed: int = 0,
    watch: Watcher | None = None,
) -> MinimumBudget:
    """Find the smallest budget that a method can meet, and a bound that no schedule can beat.

    Args:
        graph: The graph.
        method: As in `solve`.
        time_limit_s: As in `solve`.
        seed: As in `solve`.
        watch: As in `solve`.

    Returns:
        The smallest budget, a schedule that fits it, and the bound. With a named method, `solve`
        finds a schedule for that budget and none for one byte less, unless a time limit interferes.
        On a graph without a backward pass, `auto`, `ilp`, `local` and `moments` search once, for
        the bound: the schedule fits, but a search for that budget may find another minimum.

    Raises:
        As `solve`.
    """
    method = found_method(method)
    check_limits(time_limit_s, seed)
    with clock_of(time_limit_s, watch, 0) as clock:
        return _minimum(method, Session(graph=graph, seed=seed, clock=clock))


def _minimum(method: str | Method, session: Session) -> MinimumBudget:
    graph, clock = session.graph, session.clock
    left = clock.seconds_left(clock.end)
    found: list[Sequence[int]] = [session.facts.baseline()]
    floor = 0
    attempt = Attempt(orders=())
    if session.facts.evaluate(found[0])[0] <= least_op_bytes(graph):
        pass  # no method can do better
    elif isinstance(method, str) and is_asked_by_levels(METHODS[method], graph):
        floor, order = ask_least(session, METHODS[method], time_limit_s=left)
        found += [order] if order is not None else []
    else:
        least = lower_bound_bytes(graph)
        if isinstance(method, str):
            record = METHODS[method]
            # Its plans may run backward ops again, so this bound does not hold for them.
            budget = 0 if record.minimises_peak else least
            problem = Problem(graph=graph, budget_bytes=budget)
            attempt = record.load()(problem, session, time_limit_s=left)
        else:
            problem = Problem(graph=graph, budget_bytes=least)
            attempt = ask_callable(method, problem, left, session.seed)
        found += attempt.offered
    leanest = min(found, key=lambda order: session.facts.evaluate(order)[0])
    schedule = with_frees(graph, leanest)
    found_least = minimum_of(graph, schedule, attempt)
    # A search by levels finds a plan from its level on, even if the plan's peak is lower.
    return dataclasses.replace(found_least, peak_bytes=max(found_least.peak_bytes, floor))


@contextlib.contextmanager
def clock_of(time_limit_s: float, watch: Watcher | None, budget_bytes: int) -> Iterator[Clock]:
    """The clock of a search; what is imported once per process, and compiled, does not count."""
    # Importing numba takes time, and only searches need it.
    from autockpt_solvers.kernels.compiling import compile_time_apart

    clock = Clock(limit_s=time_limit_s, watch=watch, budget_bytes=budget_bytes)
    with compile_time_apart(clock):
        yield clock


def check_limits(time_limit_s: object, seed: object) -> None:
    """Raise TypeError or ValueError if a time limit or a seed cannot be used."""
    if isinstance(time_limit_s, bool) or not isinstance(time_limit_s, Real):
        raise TypeError(f"time_limit_s is {time_limit_s!r}; it must be a number of seconds")
    if not 0 < float(time_limit_s) < math.inf:
        raise ValueError(f"time_limit_s is {time_limit_s}; it must be above 0, and finite")
    check_integer(seed, "seed")
    if isinstance(seed, int) and not 0 <= seed <= _LARGEST_SEED:
        raise ValueError(f"seed is {seed}; it must be from 0 to {_LARGEST_SEED}")


def _why_none_fits(is_proven: bool, clock: Clock) -> SolveStatus:
    if is_proven:
        return SolveStatus.INFEASIBLE
    return SolveStatus.OUT_OF_TIME if clock.is_cut_short or clock.is_over else SolveStatus.NOT_FOUND


def name_of(method: Method) -> str:
    """What a result calls a callable."""
    return getattr(method, "__name__", type(method).__name__)


def ask_callable(method: Method, problem: Problem, time_limit_s: float, seed: int) -> Attempt:
    """Call a user's method and check what it returns."""
    name = name_of(method)
    try:
        answer = method(problem, time_limit_s=time_limit_s, seed=seed)
    except Exception as error:
        raise MethodError(
            f"method {name!r} raised {type(error).__name__}: {error}; {_advice(error)}"
        ) from error
    if answer is None:
        return Attempt(orders=())
    if not isinstance(answer, Attempt | Schedule):
        raise MethodError(
            f"method {name!r} returned {type(answer).__name__}; it must return a Schedule, an "
            "Attempt, or None"
        )
    try:
        return _checked(problem.graph, answer)
    except ScheduleError:
        raise
    except Exception as error:
        raise MethodError(
            f"method {name!r} returned a damaged {type(answer).__name__} "
            f"({type(error).__name__}: {error}); its orders must be sequences of op indices, its "
            "bounds ints, and its steps Compute and Free"
        ) from error


def _advice(error: Exception) -> str:
    """What to do about an error of a method: mend a line of its file, or its signature."""
    _, *frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    if own:
        return f"mend {own[-1].filename}:{own[-1].lineno}"
    return "a method takes (problem, *, time_limit_s, seed) and returns a Schedule"


def _checked(graph: ComputeGraph, answer: Attempt | Schedule) -> Attempt:
    """An answer in which every plan has run; raises whatever a damaged one raises."""
    if isinstance(answer, Schedule):
        simulate(graph, answer)
        return Attempt(orders=(answer.compute_order,))
    check_integer(answer.lower_bound_ns, "lower_bound_ns")
    check_integer(answer.lower_bound_bytes, "lower_bound_bytes")
    for name in (answer.bound_class, answer.method):
        if not isinstance(name, str):
            raise TypeError(f"{name!r} is not a str")
    for order in answer.offered:
        for op in order:
            check_integer(op, "an op")
            if not 0 <= op < len(graph.ops):
                raise ValueError(f"op {op} is not in the graph, which has {len(graph.ops)}")
        simulate(graph, with_frees(graph, order))
    return answer


def judged(
    problem: Problem,
    schedules: Sequence[Schedule],
    attempt: Attempt,
    name: str,
    session: Session,
    known: MinimumBudget | None = None,
) -> Result:
    """Replay schedules; report the cheapest that fits, with the bounds for its class of plans.

    The smallest budget is `known`, or the peak of the leanest schedule if that is None.
    """
    graph, clock, fixed_bytes = problem.graph, session.clock, problem.fixed_bytes
    replays = [(simulate(graph, schedule), schedule) for schedule in schedules]
    minimum = known
    if minimum is None:
        leanest = min(replays, key=lambda replay: replay[0].peak_bytes)[1]
        minimum = minimum_of(graph, leanest, attempt)
    fitting = [
        (timeline.recompute_ns, timeline.peak_bytes, k)
        for k, (timeline, _) in enumerate(replays)
        if timeline.peak_bytes <= problem.available_bytes
    ]
    if not fitting:
        leanest = min(replays, key=lambda replay: replay[0].peak_bytes)[1]
        least, least_class = least_bytes(graph, leanest, attempt)
        return Result(
            status=_why_none_fits(least > problem.available_bytes, clock),
            schedule=None,
            recompute_ns=0,
            peak_bytes=minimum.peak_bytes + fixed_bytes,
            lower_bound_ns=0,
            lower_bound_bytes=least + fixed_bytes,
            bound_class=least_class,
            minimum_peak_bytes=minimum.peak_bytes + fixed_bytes,
            minimum_bound_bytes=minimum.lower_bound_bytes + fixed_bytes,
            minimum_schedule=known.schedule if known is not None else None,
            solve_time_s=clock.elapsed_s,
            method=name,
        )
    recompute, peak, best = min(fitting)
    clock.found(recompute, peak)
    clock.begin("proving a lower bound")
    schedule = replays[best][1]
    bound_class, bound, bound_bytes = bounds_of(
        problem, schedule, attempt, is_free=not recompute, session=session
    )
    return Result(
        status=SolveStatus.OPTIMAL if recompute <= bound else SolveStatus.FEASIBLE,
        schedule=schedule,
        recompute_ns=recompute,
        peak_bytes=peak + fixed_bytes,
        lower_bound_ns=min(bound, recompute),
        lower_bound_bytes=bound_bytes + fixed_bytes,
        bound_class=bound_class,
        minimum_peak_bytes=minimum.peak_bytes + fixed_bytes,
        minimum_bound_bytes=minimum.lower_bound_bytes + fixed_bytes,
        minimum_schedule=known.schedule if known is not None else None,
        solve_time_s=clock.elapsed_s,
        method=name,
    )


def minimum_of(graph: ComputeGraph, schedule: Schedule, attempt: Attempt) -> MinimumBudget:
    """The peak of the leanest schedule as the smallest budget, with the bound on it."""
    bound, bound_class = least_bytes(graph, schedule, attempt)
    return MinimumBudget(
        peak_bytes=simulate(graph, schedule).peak_bytes,
        lower_bound_bytes=bound,
        bound_class=bound_class,
        schedule=schedule,
    )
