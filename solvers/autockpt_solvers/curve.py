"""`budget_curve`: what each of many budgets costs, from one search.

A search for one budget prepares much that does not depend on it: facts about the graph, the
smallest budget, the windows of `ilp`. All points of a curve share that. Beyond it each point gets a
search of its own, from the largest budget down, and then the cheapest of all plans that fit it. So
a larger budget is never dearer, and a lucky find at one point serves every larger one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autockpt_solvers.api import (
    ask_callable,
    check_limits,
    clock_of,
    found_method,
    judged,
    minimum_of,
    name_of,
)
from autockpt_solvers.attempt import Attempt
from autockpt_solvers.bounds.peak import lower_bound_bytes
from autockpt_solvers.bounds.proof import bound_in_order_ns, own_order
from autockpt_solvers.graph import check_integer
from autockpt_solvers.methods.registry import METHODS
from autockpt_solvers.problem import Problem
from autockpt_solvers.result import SolveStatus
from autockpt_solvers.schedule import with_frees
from autockpt_solvers.search.ask import is_asked_by_levels
from autockpt_solvers.search.least import least_plan, reordered
from autockpt_solvers.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autockpt_solvers.attempt import Method
    from autockpt_solvers.clock import Watcher
    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.result import MinimumBudget, Result

SIMPLE_METHODS = ("full", "sqrt", "uniform", "greedy")

# The points are closer together near the smallest budget, where a curve is steep.
_BEND = 1.5
# Of the time limit: the bounds, the search, and what the simple methods and replays may take.
_SHARE_OF_BOUNDS, _SHARE_OF_SEARCH = 0.25, 0.9
_TIMES_FOR_LEAST = 2  # how many time limits the smallest budget may take before the search begins
_LEAST_OF_BOUND_S = 0.1  # each bound gets at least this
# Plans are hard to find up to this many times the smallest budget: such points get more time.
_TIGHT, _WEIGHT = 1.5, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SimplePlan:
    """A plan of a simple method, to compare with.

    Attributes:
        method: Name of the method.
        peak_bytes: Its peak, fixed bytes included.
        recompute_ns: Time of repeated runs.
    """

    method: str
    peak_bytes: int
    recompute_ns: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BudgetCurve:
    """What each of many budgets costs.

    Attributes:
        budgets: The budgets in bytes, fixed bytes included, ascending.
        results: The answer for each, as `solve` gives it. `solve_time_s` counts from the beginning
            of the whole search.
        minimum: The smallest budget that a plan is known for; fixed bytes are not included.
        simple: Plans of simple methods. No other plan of the same method is better in both peak and
            time.
    """

    budgets: tuple[int, ...]
    results: tuple[Result, ...]
    minimum: MinimumBudget
    simple: tuple[SimplePlan, ...]

    def __repr__(self) -> str:
        first, last = self.budgets[0], self.budgets[-1]
        return (
            f"<BudgetCurve: {len(self.budgets)} budgets from {first:,} to {last:,} bytes, smallest "
            f"{self.minimum.peak_bytes:,} beside fixed bytes, {len(self.simple)} simple plans>"
        )


@dataclass(frozen=True, slots=True)
class _Known:
    """A plan that was found, and what it costs; the best of several is the least."""

    recompute_ns: int
    peak_bytes: int
    order: Sequence[int]
    method: str


def budget_curve(
    graph: ComputeGraph,
    budgets: int | Sequence[int] = 20,
    *,
    fixed_bytes: int = 0,
    most_bytes: int = 0,
    method: str | Method = "auto",
    simple: Sequence[str] = SIMPLE_METHODS,
    time_limit_s: float = 10.0,
    seed: int = 0,
    watch: Watcher | None = None,
) -> BudgetCurve:
    """Find a plan for each of many budgets; a larger budget never costs more.

    Args:
        graph: The graph.
        budgets: The budgets in bytes, fixed bytes included; or how many to choose, from the
            smallest that a plan is found for to the peak of running nothing twice.
        fixed_bytes: Bytes in use during the whole step.
        most_bytes: The largest budget to choose, if it exceeds that peak.
        method: As in `solve`.
        simple: Names of the methods to compare with.
        time_limit_s: Ends the search, for all budgets together. It counts from when the smallest
            budget is known, which may take twice as long. Every budget gets an answer.
        seed: As in `solve`.
        watch: As in `solve`.

    Returns:
        The curve. Duplicate budgets are joined.

    Raises:
        TypeError: A budget is not an int. Otherwise as `solve`.
        ValueError: There is no budget, or one is negative. Otherwise as `solve`.
        MethodError: As `solve`.
        ScheduleError: As `solve`.
    """
    method = found_method(method)
    for name in simple:
        if name not in METHODS:
            known = ", ".join(map(repr, METHODS))
            raise ValueError(f"unknown method {name!r} in simple; use {known}")
    check_limits(time_limit_s, seed)
    wanted = _checked_budgets(graph, budgets, fixed_bytes)
    with clock_of((1 + _TIMES_FOR_LEAST) * time_limit_s, watch, 0) as clock:
        session = Session(graph=graph, seed=seed, clock=clock)
        search = _Search(session, method, fixed_bytes)
        minimum = search.minimum(_TIMES_FOR_LEAST * time_limit_s)
        clock.shorten(time_limit_s)
        if isinstance(wanted, int):
            wanted = _spread(
                wanted, fixed_bytes + minimum.peak_bytes, search.most_bytes(most_bytes)
            )
        wanted = tuple(sorted(set(wanted)))
        compared = tuple(_simple_plans(session, simple, wanted, fixed_bytes))
        for plan in compared:
            # Never worse than these; but the smallest budget stays what `minimum_budget` finds.
            if method == "auto" and plan.peak_bytes >= minimum.peak_bytes:
                search.take(Attempt(orders=(plan.order,), method=plan.method))
        results = search.results(wanted, minimum, time_limit_s)
    plans = tuple(
        SimplePlan(
            method=plan.method,
            peak_bytes=plan.peak_bytes + fixed_bytes,
            recompute_ns=plan.recompute_ns,
        )
        for plan in compared
    )
    return BudgetCurve(budgets=wanted, results=results, minimum=minimum, simple=plans)


def _checked_budgets(
    graph: ComputeGraph, budgets: int | Sequence[int], fixed_bytes: int
) -> int | tuple[int, ...]:
    """How many budgets to choose, or the budgets."""
    if isinstance(budgets, int):
        check_integer(budgets, "budgets")
        if budgets < 1:
            raise ValueError(f"budgets is {budgets}; it must be 1 or more, or a list of budgets")
        Problem(graph=graph, budget_bytes=None, fixed_bytes=fixed_bytes)
        return budgets
    for budget in budgets:
        Problem(graph=graph, budget_bytes=budget, fixed_bytes=fixed_bytes)
    if not budgets:
        raise ValueError("budgets is empty; give at least one budget in bytes, or how many")
    return tuple(budgets)


def _spread(number: int, least: int, most: int) -> tuple[int, ...]:
    """So many budgets from the least to the most, both included; one is the least alone."""
    steps = max(1, number - 1)
    most = max(least, most)
    return tuple(least + int((most - least) * (k / steps) ** _BEND) for k in range(number))


class _Search:
    """The search for all points of a curve."""

    def __init__(self, session: Session, method: str | Method, fixed_bytes: int) -> None:
        self.session = session
        self.method = method
        self.fixed_bytes = fixed_bytes
        self.record = METHODS[method] if isinstance(method, str) else None
        self.known: list[_Known] = []
        self.take(Attempt(orders=(session.facts.baseline(),), method="none"))

    def take(self, attempt: Attempt) -> None:
        """Take the plans that a method offers, and drop those that others beat."""
        name = attempt.method or (self.method if isinstance(self.method, str) else "")
        name = name or name_of(self.method)  # type: ignore[arg-type]
        for order in attempt.offered:
            peak, cost = self.session.facts.evaluate(order)
            self.known.append(_Known(cost, peak, order, name))
        front: list[_Known] = []
        for plan in sorted(self.known, key=lambda plan: (plan.peak_bytes, plan.recompute_ns)):
            if not front or plan.recompute_ns < front[-1].recompute_ns:
                front.append(plan)
        self.known = front

    def most_bytes(self, at_least: int) -> int:
        """The budget at which nothing needs to run twice."""
        free = self.known[-1].peak_bytes
        return max(at_least, free + self.fixed_bytes)

    def minimum(self, time_limit_s: float) -> MinimumBudget:
        """The smallest budget that a plan is known for before the search."""
        graph = self.session.graph
        attempt = Attempt(orders=())
        if self._descends:
            assert self.record is not None
            least = Attempt(orders=(least_plan(self.session, self.record),))
            self.take(dataclasses.replace(least, method=self.record.credits))
        else:
            floor = Problem(graph=graph, budget_bytes=lower_bound_bytes(graph))
            attempt = self._asked(floor, time_limit_s)
            self.take(attempt)
        leanest = self.known[0]
        return minimum_of(graph, with_frees(graph, leanest.order), attempt)

    def results(
        self, budgets: tuple[int, ...], minimum: MinimumBudget, time_limit_s: float
    ) -> tuple[Result, ...]:
        """The answer for each budget."""
        clock = self.session.clock
        bounds_end = clock.until(time_limit_s * _SHARE_OF_BOUNDS)
        search_end = clock.until(time_limit_s * _SHARE_OF_SEARCH)
        attempts = dict.fromkeys(budgets, Attempt(orders=()))
        # If the plan that runs nothing twice fits, there is nothing to search; nor below the
        # smallest budget of a method that finds it by a descent.
        lowest = minimum.peak_bytes if self._descends else 0
        asked = [
            self._problem(budget)
            for budget in reversed(budgets)
            if lowest <= budget - self.fixed_bytes < self.known[-1].peak_bytes
        ]
        for left, problem in zip(range(len(asked), 0, -1), asked, strict=True):
            self._prove(problem, clock.seconds_left(bounds_end, share=1 / left))
        tight = _TIGHT * self.known[0].peak_bytes
        weights = [_WEIGHT if p.available_bytes <= tight else 1 for p in asked]
        for k, problem in enumerate(asked):
            assert problem.budget_bytes is not None
            share = weights[k] / sum(weights[k:])
            attempt = self._asked(problem, clock.seconds_left(search_end, share=share))
            attempts[problem.budget_bytes] = attempt
            self.take(attempt)
        found = [self._judged(budget, attempts[budget], minimum) for budget in budgets]
        return tuple(_with_bounds_of_larger(self.session.graph, found))

    def _prove(self, problem: Problem, seconds: float) -> None:
        """Work out the bound for the order in which a method plans; the session keeps it."""
        if not self._is_asked_by_levels or self.record is None or not self.record.is_in_order:
            return
        graph = problem.graph
        moved, there = reordered(self.session, may_reorder=self.record.may_reorder)
        backward = own_order(graph)
        if moved is not None:
            backward = moved.originals[graph.num_forward :]
            problem = dataclasses.replace(problem, graph=moved.graph)
        self.session.clock.begin("proving lower bounds")
        limit_s = max(seconds, _LEAST_OF_BOUND_S)
        bound_in_order_ns(problem, there, backward, time_limit_s=limit_s)

    def _problem(self, budget: int) -> Problem:
        return Problem(graph=self.session.graph, budget_bytes=budget, fixed_bytes=self.fixed_bytes)

    @property
    def _descends(self) -> bool:
        """Whether the smallest budget is known from a descent."""
        return self.record is not None and self.record.descends and self._is_asked_by_levels

    @property
    def _is_asked_by_levels(self) -> bool:
        return self.record is not None and is_asked_by_levels(self.record, self.session.graph)

    def _asked(self, problem: Problem, seconds: float) -> Attempt:
        """Ask the method for one budget, without levels: the points themselves are the levels."""
        session, record = self.session, self.record
        if not isinstance(self.method, str):
            return ask_callable(self.method, problem, seconds, session.seed)
        assert record is not None
        if not self._is_asked_by_levels:
            return record.load()(problem, session, time_limit_s=seconds)
        deadline = session.clock.until(seconds)
        moved, there = reordered(session, may_reorder=record.may_reorder)
        graph = problem.graph if moved is None else moved.graph
        asked = Problem(graph=graph, budget_bytes=problem.available_bytes)
        session.clock.begin("searching for a plan")
        left = session.clock.seconds_left(deadline)
        attempt = record.load()(asked, there, time_limit_s=left)
        if moved is None:
            return attempt
        from autockpt_solvers.methods.heuristics import solve_heuristics

        own = solve_heuristics(problem, session, time_limit_s=session.clock.seconds_left(deadline))
        offered = tuple(moved.originally(order) for order in attempt.offered)
        return Attempt(orders=offered, others=(own,), method=attempt.method)

    def _judged(self, budget: int, attempt: Attempt, minimum: MinimumBudget) -> Result:
        """The cheapest plan of all that fit a budget, replayed, with the bounds for it."""
        problem = self._problem(budget)
        fitting = [p for p in self.known if p.peak_bytes <= problem.available_bytes]
        best = fitting[-1] if fitting else self.known[0]
        schedule = with_frees(problem.graph, best.order)
        bounds = dataclasses.replace(attempt, orders=(), fixed=(), others=())
        return judged(problem, [schedule], bounds, best.method, self.session, minimum)


def _with_bounds_of_larger(graph: ComputeGraph, results: Sequence[Result]) -> Iterator[Result]:
    """The results, each with the highest bound of larger budgets: it holds for smaller ones too.

    Bounds for one class of plans say nothing about another class, nor about plans with another
    order of the backward ops.
    """
    highest: dict[tuple[str, tuple[int, ...]], int] = {}
    raised: list[Result] = []
    for result in reversed(results):
        if result.schedule is None:
            raised.append(result)
            continue
        order = result.schedule.compute_order
        key = result.bound_class, tuple(op for op in order if op >= graph.num_forward)
        highest[key] = max(highest.get(key, 0), result.lower_bound_ns)
        bound = min(highest[key], result.recompute_ns)
        status = SolveStatus.OPTIMAL if bound == result.recompute_ns else result.status
        raised.append(dataclasses.replace(result, lower_bound_ns=bound, status=status))
    yield from reversed(raised)


def _simple_plans(
    session: Session, methods: Sequence[str], budgets: tuple[int, ...], fixed_bytes: int
) -> Iterator[_Known]:
    """What simple methods offer: at each budget if they search for it, else once."""
    facts, clock = session.facts, session.clock
    for name in methods:
        clock.begin(f"comparing with {name}")
        record = METHODS[name]
        orders: list[Sequence[int]] = []
        for budget in budgets if record.is_search else budgets[:1]:
            problem = Problem(graph=session.graph, budget_bytes=budget, fixed_bytes=fixed_bytes)
            attempt = record.load()(problem, session, time_limit_s=clock.seconds_left(clock.end))
            orders += attempt.offered
        for order in facts.front(orders):
            peak, cost = facts.evaluate(order)
            yield _Known(cost, peak, order, name)
