"""Searching by levels, so that a larger budget never gives a slower plan.

A search may by chance find a better plan for a small budget than for a large one. So a method is
never asked for the budget itself. It is asked for *levels*: budgets that depend on the graph alone.
The answer is the cheapest plan of all levels at or below the budget, each plan filled up to the
budget (see `fill`). If that leaves much to gain, the method may improve its plan on the way, at a
few budgets between the level and the next.

The levels are searched from the highest down, until the lower bound proves that no lower level can
give a cheaper plan. As the bound grows when the budget shrinks, one or two levels mostly suffice.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.bounds.peak import lower_bound_bytes
from autockpt_solvers.bounds.recomputation import bound_below_ns, lower_bound_ns
from autockpt_solvers.problem import Problem
from autockpt_solvers.search.fill import fill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from autockpt_solvers.orders.facts import GraphFacts
    from autockpt_solvers.session import BuiltIn, Session

# More levels leave less to fill up, but each that must be searched costs a whole search. The
# budgets of the zoo table in benchmarks/solvers.py, f = 0.75 to 0.1, are levels.
_LEVELS = 40
_BETWEEN = 4  # budgets from a level to the next at which its plan is improved
_CLOSE = 2e-3  # a plan this close to the bound, in training steps, is not worth improving
_SHARE_OF_METHOD = 0.95  # of the time limit; filling up and proofs get the rest
_WORTH_FILLING = 1.5  # a plan that costs more than this times the cheapest is not filled up


def level_budgets(facts: GraphFacts, lowest: int = 0) -> list[int]:
    """The levels, ascending.

    Args:
        facts: The graph.
        lowest: The lowest level, if there is to be none below it. The others are evenly spaced from
            the least possible peak to the baseline's.
    """
    least, most = lower_bound_bytes(facts.graph), facts.evaluate(facts.baseline())[0]
    levels = {least + (most - least) * k // _LEVELS for k in range(_LEVELS + 1)}
    return sorted({max(level, lowest) for level in levels})


def solve_by_levels(
    problem: Problem,
    session: Session,
    method: BuiltIn,
    *,
    time_limit_s: float,
    bound_ns: Callable[..., int] = lower_bound_ns,
) -> Attempt:
    """Offer the best plan of all levels up to the budget, and the leanest plan found.

    Args:
        problem: The problem; its budget is below the baseline's peak.
        session: The session of its graph.
        method: What finds a plan for one level.
        time_limit_s: Ends the search.
        bound_ns: A lower bound that holds for the method's plans.

    Returns:
        The plans, with the name of the method that made the best one.
    """
    deadline = session.clock.until(time_limit_s)
    lowest = 0 if session.least is None else session.facts.evaluate(session.least)[0]
    levels = level_budgets(session.facts, lowest)
    top = max((k for k, level in enumerate(levels) if level <= problem.available_bytes), default=0)
    until = session.clock.until(time_limit_s * _SHARE_OF_METHOD)
    best = _BestPlans(problem, session, levels, bound_ns, deadline)
    for level in range(top, -1, -1):
        session.clock.begin("searching for a plan")
        asked = Problem(graph=problem.graph, budget_bytes=levels[level])
        left = session.clock.seconds_left(until)
        try:
            attempt = method(asked, session, time_limit_s=left)
        except MemoryError as error:
            # No other exception: it may be one that a signal handler of yours has raised.
            if best.cheapest is None or error is session.clock.failure:
                raise
            warnings.warn(
                f"the search stopped early and keeps its best plan: {error!r}",
                RuntimeWarning,
                stacklevel=2,
            )
            break
        best.take(attempt, level)
        if session.clock.now() >= until:
            session.clock.is_cut_short = True
            break
        if best.is_proven_below(level):
            break
    return best.attempt()


def least_by_levels(
    session: Session, method: BuiltIn, *, time_limit_s: float
) -> tuple[int, Sequence[int] | None]:
    """The smallest budget for which `solve_by_levels` finds a plan, and that plan."""
    deadline = session.clock.until(time_limit_s)
    levels = level_budgets(session.facts)
    least = levels[-1]
    leanest: Sequence[int] | None = None
    for number, level in enumerate(levels):
        if level >= least or (number and session.clock.now() >= deadline):
            break
        session.clock.begin("searching for the smallest budget")
        asked = Problem(graph=session.graph, budget_bytes=level)
        left = session.clock.seconds_left(deadline)
        attempt = method(asked, session, time_limit_s=left)
        peaks = [(session.facts.evaluate(order)[0], k) for k, order in enumerate(attempt.offered)]
        peak, k = min(peaks, default=(least, 0))
        # A plan of the lowest level serves from its own peak on, others from their level on.
        floor = max(peak, level) if number else peak
        if floor < least:
            least, leanest = floor, attempt.offered[k]
    return least, leanest


class _BestPlans:
    """The best plans found so far.

    Attributes:
        cheapest: Recompute time, peak and order of the cheapest plan that fits, if any.
        leanest: Peak, recompute time and order of the plan with the lowest peak.
    """

    def __init__(
        self,
        problem: Problem,
        session: Session,
        levels: Sequence[int],
        bound_ns: Callable[..., int],
        deadline: float,
    ) -> None:
        self.problem = problem
        self.budget = problem.available_bytes
        self.session = session
        self.facts = session.facts
        self.clock = session.clock
        self.levels = levels
        self.bound_ns = bound_ns
        self.deadline = deadline
        self.cheapest: tuple[int, int, Sequence[int]] | None = None
        self.leanest: tuple[int, int, Sequence[int]] | None = None
        self.method = ""

    def take(self, attempt: Attempt, level: int) -> None:
        """Take the plans found for a level, each also filled up to the budget."""
        self.clock.begin("filling the plan up to the budget")
        for other in attempt.others:
            self.take(dataclasses.replace(other, method=attempt.method), level)
        for peak, cost, order in self._evaluated(attempt.fixed):
            if peak <= self.budget:
                self._offer(cost, peak, order, attempt.method)
        # Below the lowest level there is none to search: there, a plan over its level counts too.
        most = self.budget if level == 0 else min(self.budget, self.levels[level])
        for peak, cost, order in self._evaluated(attempt.orders):
            if peak <= most:
                self._offer(cost, peak, order, attempt.method)
        if self.budget > self.levels[level]:
            self._fill(attempt, level)

    def _fill(self, attempt: Attempt, level: int) -> None:
        """Fill up the cheapest plan, and the leanest, which may become the cheapest."""
        # What a plan is filled up to in the end must not depend on the budget. It is just below
        # the next level, because a bound may settle the search of that level by itself.
        start, top = self.levels[level], len(self.levels) - 1
        cap = start if level == top else self.levels[level + 1] - 1
        known = attempt.orders
        if level == 0 and self.session.least is not None:
            known = (*known, self.session.least)  # `ask` offers it; filled up, it may cost less
        chosen = self.facts.best(known, start)
        most = self.facts.evaluate(chosen[0])[1] * _WORTH_FILLING if chosen else 0
        for order in chosen:
            peak, cost = self.facts.evaluate(order)
            if peak <= start and cost <= most:
                budget = min(self.budget, cap)
                full = fill(
                    self.facts, order, start=start, cap=cap, budget=budget, clock=self.clock
                )
                self._offer(*self.facts.evaluate(full)[::-1], full, attempt.method)
        if chosen and start < cap:
            self._improve(attempt, chosen[0], start, cap)

    def _improve(self, attempt: Attempt, order: Sequence[int], start: int, cap: int) -> None:
        """Improve a plan at a few budgets from a level to the next."""
        graph = self.problem.graph
        peak = self.facts.evaluate(order)[0]
        first = start + (cap - start) // _BETWEEN
        if attempt.improve is None or peak > start or self.budget < first:
            return
        # Whether to begin must not depend on the budget.
        filled = self._filled(order, start, cap, cap)
        bound = bound_below_ns(self.session, cap + 1, self.deadline, self.bound_ns)
        if self.facts.evaluate(filled)[1] - bound <= _CLOSE * graph.total_runtime_ns:
            return
        for step in range(_BETWEEN):
            low, high = (start + (cap - start) * k // _BETWEEN for k in (step, step + 1))
            budget = min(self.budget, high)
            full = self._filled(order, low, high, budget)
            self._offer(*self.facts.evaluate(full)[::-1], full, attempt.method)
            if self.budget < high or self.clock.now() >= self.deadline:
                break
            order = attempt.improve(Problem(graph=graph, budget_bytes=high), full)
            self._offer(*self.facts.evaluate(order)[::-1], order, attempt.method)

    def _filled(self, order: Sequence[int], start: int, cap: int, budget: int) -> Sequence[int]:
        return fill(self.facts, order, start=start, cap=cap, budget=budget, clock=self.clock)

    def _evaluated(
        self, found: Iterable[Sequence[int]]
    ) -> Iterable[tuple[int, int, Sequence[int]]]:
        for order in found:
            peak, cost = self.facts.evaluate(order)
            if self.leanest is None or (peak, cost) < self.leanest[:2]:
                self.leanest = (peak, cost, order)
            yield peak, cost, order

    def _offer(self, cost: int, peak: int, order: Sequence[int], method: str) -> None:
        if self.cheapest is None or (cost, peak) < self.cheapest[:2]:
            self.cheapest = (cost, peak, order)
            self.method = method
            self.clock.found(cost, peak)

    def is_proven_below(self, level: int) -> bool:
        """Whether no plan of a lower level can be cheaper than the cheapest one."""
        if self.cheapest is None or self.cheapest[0] == 0:
            return self.cheapest is not None
        bound = bound_below_ns(self.session, self.levels[level], self.deadline, self.bound_ns)
        return bound >= self.cheapest[0]

    def attempt(self) -> Attempt:
        """The cheapest and the leanest plan."""
        plans = [plan[2] for plan in (self.cheapest, self.leanest) if plan is not None]
        return Attempt(orders=tuple(plans), method=self.method)
