"""Searches made monotone: a larger budget never gives a slower plan.

A search that looks for a plan within a room may happen to do better in a smaller room than in a
larger one. So it is never asked for the room itself, but for levels: rooms that depend on the graph
alone. The answer for a budget is the cheapest plan of all levels at or below it, each plan filled
up to the budget (see `fill`). Where that leaves much to gain, the method may improve it on the way,
in rooms between the level and the next that depend on the level alone. Levels are searched from the
highest one down, until the lower bound proves that no plan below can be cheaper than the one in
hand; as the bound only grows, that is mostly after one or two.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.bounds.bound import bound_below_ns, lower_bound_bytes, lower_bound_ns
from autockpt_solvers.orders.facts import orders_of
from autockpt_solvers.problem import Problem
from autockpt_solvers.search.fill import fill
from autockpt_solvers.session import sharing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from autockpt_solvers.attempt import Method
    from autockpt_solvers.graph import ComputeGraph

_LEVELS = 40
_BETWEEN = 4  # rooms from a level to the next in which its plan is improved
_CLOSE = 2e-3  # time above the bound, in times of a training step, that is not worth it
_WORTH_FILLING = 1.5  # times the cheapest plan's recomputation; dearer ones stay behind it


def level_rooms(graph: ComputeGraph) -> list[int]:
    """The levels, ascending: evenly from what any schedule needs to what the baseline needs."""
    orders = orders_of(graph)
    least, most = lower_bound_bytes(graph), orders.evaluate(orders.baseline())[0]
    return sorted({least + (most - least) * k // _LEVELS for k in range(_LEVELS + 1)})


@sharing()
def solve_by_levels(
    problem: Problem,
    method: Method,
    *,
    time_limit_s: float,
    seed: int,
    bound_ns: Callable[..., int] = lower_bound_ns,
) -> Attempt:
    """Offers the best plan of all levels up to the room, and the leanest plan met.

    Args:
        problem: The problem; its room is below the baseline's peak.
        method: What searches for a plan in a room.
        time_limit_s: Ends the search.
        seed: Handed on.
        bound_ns: The bound that ends the search: one that holds for the method's plans.

    Returns:
        The plans, with the name of the method that made the best one.
    """
    deadline = time.monotonic() + time_limit_s
    rooms = level_rooms(problem.graph)
    top = max((k for k, room in enumerate(rooms) if room <= problem.room_bytes), default=0)
    climber = _Climber(problem, rooms, bound_ns, deadline)
    for level in range(top, -1, -1):
        left = max(0.05, deadline - time.monotonic())
        try:
            attempt = method(
                Problem(graph=problem.graph, budget_bytes=rooms[level]),
                time_limit_s=left,
                seed=seed,
            )
        except Exception as error:
            if climber.best is None:
                raise
            warnings.warn(
                f"the search stopped early, its best plan stands: {error!r}",
                RuntimeWarning,
                stacklevel=2,
            )
            break
        if isinstance(attempt, Attempt):
            climber.take(attempt, level)
        if time.monotonic() > deadline or climber.is_settled(level):
            break
    return climber.attempt()


@sharing()
def least_by_levels(
    graph: ComputeGraph, method: Method, *, time_limit_s: float, seed: int
) -> tuple[int, Sequence[int] | None]:
    """The least room for which `solve_by_levels` finds a plan, and that plan."""
    deadline = time.monotonic() + time_limit_s
    orders = orders_of(graph)
    rooms = level_rooms(graph)
    least = rooms[-1]
    leanest: Sequence[int] | None = None
    for level, room in enumerate(rooms):
        left = max(0.05, deadline - time.monotonic())
        if room >= least or (level and time.monotonic() > deadline):
            break
        asked = Problem(graph=graph, budget_bytes=room)
        attempt = method(asked, time_limit_s=left, seed=seed)
        if not isinstance(attempt, Attempt):
            break
        offered = attempt.offered if level else (*attempt.fixed, *attempt.offered)
        peaks = [(orders.evaluate(order)[0], k) for k, order in enumerate(offered)]
        peak, k = min(peaks, default=(least, 0))
        # The lowest level's leanest plan serves from its own peak on, others from their level on.
        floor = max(peak, room) if level else peak
        if floor < least:
            least, leanest = floor, offered[k]
    return least, leanest


class _Climber:
    """The best plans met so far.

    Attributes:
        best: Recompute time, peak and order of the cheapest plan that fits the room, if any.
        lean: Peak, recompute time and order of the plan with the lowest peak.
    """

    def __init__(
        self,
        problem: Problem,
        rooms: Sequence[int],
        bound_ns: Callable[..., int],
        deadline: float,
    ) -> None:
        self.problem = problem
        self.deadline = deadline
        self.bound_ns = bound_ns
        self.orders = orders_of(problem.graph)
        self.rooms = rooms
        self.best: tuple[int, int, Sequence[int]] | None = None
        self.lean: tuple[int, int, Sequence[int]] | None = None
        self.method = ""

    def take(self, attempt: Attempt, level: int) -> None:
        """Takes the plans that a search found for a level, and those that no level matters to."""
        for other in attempt.others:
            self.take(dataclasses.replace(other, method=attempt.method), level)
        room = self.problem.room_bytes
        # Where nothing fits, what the lowest level reaches is the last resort.
        free = (*attempt.fixed, *attempt.orders) if level == 0 else attempt.fixed
        for peak, cost, order in self._replayed(free):
            if peak <= room:
                self._offer(cost, peak, order, attempt.method)
        for peak, cost, order in self._replayed(attempt.orders):
            if peak <= min(room, self.rooms[level]):
                self._offer(cost, peak, order, attempt.method)
        if room > self.rooms[level]:
            self._fill(attempt, level)

    def _fill(self, attempt: Attempt, level: int) -> None:
        """Fills up the cheapest plan, and the leanest, which may be the cheapest then."""
        # The range of rooms that a plan is filled for must not depend on the room.
        start, top = self.rooms[level], len(self.rooms) - 1
        # Up to the next level, which it does not reach: a bound may settle that one by itself.
        cap = start if level == top else self.rooms[level + 1] - 1
        chosen = self.orders.best(attempt.orders, start)
        most = self.orders.evaluate(chosen[0])[1] * _WORTH_FILLING if chosen else 0
        for order in chosen:
            peak, cost = self.orders.evaluate(order)
            if peak <= start and cost <= most:
                room = min(self.problem.room_bytes, cap)
                full = fill(self.orders, order, start=start, cap=cap, room=room)
                self._offer(*self.orders.evaluate(full)[::-1], full, attempt.method)
        if chosen and start < cap:
            self._climb(attempt, chosen[0], start, cap)

    def _climb(self, attempt: Attempt, order: Sequence[int], start: int, cap: int) -> None:
        """Improves a plan in rooms from a level to the next."""
        graph, room = self.problem.graph, self.problem.room_bytes
        peak = self.orders.evaluate(order)[0]
        if attempt.improve is None or peak > start or room < start + (cap - start) // _BETWEEN:
            return
        # Whether to begin must not depend on the room.
        filled = fill(self.orders, order, start=start, cap=cap, room=cap)
        above = Problem(graph=graph, budget_bytes=cap + 1)
        bound = bound_below_ns(above, self.deadline, self.bound_ns)
        if self.orders.evaluate(filled)[1] - bound <= _CLOSE * graph.total_runtime_ns:
            return
        for step in range(_BETWEEN):
            low, high = (start + (cap - start) * k // _BETWEEN for k in (step, step + 1))
            full = fill(self.orders, order, start=low, cap=high, room=min(room, high))
            self._offer(*self.orders.evaluate(full)[::-1], full, attempt.method)
            if room < high or time.monotonic() > self.deadline:
                break
            order = attempt.improve(Problem(graph=graph, budget_bytes=high), full)
            self._offer(*self.orders.evaluate(order)[::-1], order, attempt.method)

    def _replayed(self, found: Iterable[Sequence[int]]) -> Iterable[tuple[int, int, Sequence[int]]]:
        for order in found:
            peak, cost = self.orders.evaluate(order)
            if self.lean is None or (peak, cost) < self.lean[:2]:
                self.lean = (peak, cost, order)
            yield peak, cost, order

    def _offer(self, cost: int, peak: int, order: Sequence[int], method: str) -> None:
        if self.best is None or (cost, peak) < self.best[:2]:
            self.best = (cost, peak, order)
            self.method = method

    def is_settled(self, level: int) -> bool:
        """Whether no plan for less than a level's room can be cheaper than the one in hand."""
        if self.best is None or self.best[0] == 0:
            return self.best is not None
        at_level = Problem(graph=self.problem.graph, budget_bytes=self.rooms[level])
        return bound_below_ns(at_level, self.deadline, self.bound_ns) >= self.best[0]

    def attempt(self) -> Attempt:
        """What was found."""
        orders = [plan[2] for plan in (self.best, self.lean) if plan is not None]
        return Attempt(
            orders=tuple(orders),
            method=self.method,
        )
