"""Refinement: annealing over what a plan holds, from the best plan there is.

Windows keep what crosses their borders, and composition counts with whole turns. Annealing over
the tables of `held` knows neither: it starts from the best plan of windows and heuristics, and
changes what is kept and held, one or two entries at a time, judged on the whole graph.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.bounds.bound import bound_below_ns
from autockpt_solvers.compiling import IS_COMPILED
from autockpt_solvers.orders.facts import orders_of
from autockpt_solvers.refinement.anneal import anneal_held, settle, write_order
from autockpt_solvers.refinement.tables import blank, stages_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from autockpt_solvers.orders.facts import Orders
    from autockpt_solvers.problem import Problem

_CHUNK = 1024 if IS_COMPILED else 16  # steps between two looks at the clock
_MOST_CELLS = 400_000_000  # of the largest table, in bytes; larger graphs are not refined
_LONGER = 4  # forward ops may run again this many times the number of ops
# Walks, each from the best plan met: first temperature, in times of a training step, and what a run
# over by the whole room weighs at first, in the same. With next to no weight walks meet plans far
# over the room, and give up what those spare only where it costs least.
_WALKS = ((3e-4, 0.06), (1e-4, 0.01), (1e-4, 0.003), (5e-5, 0.003))
# Where that leaves much to gain, many short walks from the start, and one from the best plan met:
# which of a few very different plans a walk comes to is decided early, and by chance.
_SHORT_WALK, _LAST_WALK = _WALKS[2:]
_STEPS_OF_SHORT = 60  # times the decisions and reads of the graph
# From a good plan in a little more room; so many steps for its size, at most this share of all,
# which is too few for a graph of more ops and reads.
_COLD_WALK = (2e-5, 0.01)
_STEPS_OF_TOUCH = 20
_TOUCH = 0.25
_MOST_TOUCHED = 15_000
_HEAVY = 20.0  # what it weighs at last
# Where nothing fits: from the leanest plan met, to this share of its peak.
_LEANER = 0.97
# What a step takes grows with the runs and reads of the graph: with this many, steps take seconds.
_WORK = 2_400_000_000
_WORK_INTERPRETED, _FIXED_INTERPRETED = 3_000_000, 1000
_STEPS_PER_OP = 1000
_COOLING = 0.02  # last temperature over first
_CLOSE = 2e-3  # time above the bound, in the same, that is not worth a walk
_FAR = 1e-2  # the same, that is worth all steps, and short walks; less is worth fewer, and more
_MOST_WORTH = 2.0  # times as many at most; so many where no plan fits yet


def refine(
    problem: Problem, orders: Orders, start: Sequence[int], *, seed: int, deadline: float
) -> list[list[int]]:
    """Orders better than `start`: cheaper where it fits, with a lower peak where it does not.

    Args:
        problem: The problem.
        orders: The graph.
        start: An order that runs.
        seed: Random seed.
        deadline: Ends the walks early.

    Returns:
        The cheapest order that fits, if any was met, and the one with the lowest peak.
    """
    room, total = problem.room_bytes, max(1, problem.graph.total_runtime_ns)

    def gain(known_ns: list[int]) -> float:
        """Time of the cheapest plan above the bound, in times of a step."""
        left = deadline - time.monotonic()
        bound = bound_below_ns(problem, deadline - 3 * left / 4) if known_ns else 0
        return (min(known_ns, default=math.inf) - bound) / total

    known_ns = [recompute for peak, recompute in [orders.evaluate(start)] if peak <= room]
    to_gain = gain(known_ns)
    if to_gain <= _CLOSE:
        return []
    started = time.monotonic()
    refiner = _refiner(orders, room, seed, deadline)
    if refiner is None:
        return []
    deadline += time.monotonic() - started  # the first walk of an installation is compiled first
    steps = int(refiner.num_steps() * min(_MOST_WORTH, to_gain / _FAR))
    halfway = (time.monotonic() + deadline) / 2
    refiner.walk(start, _WALKS, steps // len(_WALKS), halfway)
    known_ns += [int(refiner.found[0])] if refiner.best_order is not None else []
    if known_ns and gain(known_ns) > _FAR:
        short = _STEPS_OF_SHORT * refiner.size
        num_short = max(1, steps // short)
        for number in range(num_short):
            now = time.monotonic()
            until = now + (deadline - now) / (num_short + 1 - number)
            refiner.run(start, min(short, steps), until, *_SHORT_WALK)
        refiner.walk(start, [_LAST_WALK], steps // len(_WALKS), deadline)
    return [order for order in (refiner.best_order, refiner.lean_order) if order is not None]


def can_touch_up(orders: Orders) -> bool:
    """Whether `touch_up` is worth its time on a graph."""
    return _work_per_step(orders) <= _MOST_TOUCHED


def _work_per_step(orders: Orders) -> int:
    return 2 * len(orders.reads) + sum(map(len, orders.reads))


def touch_up(
    problem: Problem, order: Sequence[int], *, seed: int, deadline: float
) -> Sequence[int]:
    """A plan, made cheaper by a short and cold walk; the same where that finds nothing.

    Args:
        problem: The problem.
        order: An order that fits.
        seed: Random seed.
        deadline: Ends the walk early.
    """
    orders = orders_of(problem.graph)
    refiner = _refiner(orders, problem.room_bytes, seed, deadline)
    if refiner is None:
        return order
    steps = min(_STEPS_OF_TOUCH * refiner.size, int(_TOUCH * refiner.num_steps()))
    refiner.run(order, steps, deadline, *_COLD_WALK)
    known = [order] if refiner.best_order is None else [order, refiner.best_order]
    return orders.best(known, problem.room_bytes)[0]


def _refiner(orders: Orders, room: int, seed: int, deadline: float) -> Refiner | None:
    """What walks, compiled; None where there is nothing to walk over, or no time."""
    num_cells = len(orders.graph.storages) * len(orders.backward_ops)
    if num_cells > _MOST_CELLS or time.monotonic() >= deadline:
        return None
    refiner = Refiner(orders, room, seed)
    if not refiner.has_choices:
        return None
    refiner.compile()
    return refiner


class Refiner:
    """A graph as arrays, and the best orders met so far.

    Attributes:
        best_order: The cheapest order that fits, or None.
        lean_order: The order with the lowest peak, or None.
    """

    def __init__(self, orders: Orders, room: int, seed: int) -> None:
        graph = orders.graph
        self.orders = orders
        self.room = max(1, room)
        self.forward = [s for s, op in enumerate(graph.producer) if op < graph.num_forward]
        self.decided = np.array([self._is_decided(s) for s in self.forward], dtype=np.int64)
        self.stages = stages_of(orders, self.forward, self.decided)
        self.plan, self.work = blank(self.stages, most_runs=_LONGER * len(graph.ops))
        size = len(graph.ops) + self.plan.pool.size
        self.buffers = (
            np.zeros((self.plan.pool.size, 2), dtype=np.int64),
            np.flatnonzero(self.decided),
            np.zeros(size, dtype=np.int64),
            np.zeros(size, dtype=np.int64),
        )
        self.state = np.array([1 + seed % 2147483646], dtype=np.int64)
        self.found = np.array([-1, 0, 1 << 62, 0], dtype=np.int64)
        total = max(1.0, float(sum(orders.runtime)))
        self.units = (total, float(self.room))

    def compile(self) -> None:
        """Compiles the walk, where that was never done here; it takes half a minute then."""
        settle(self.stages, self.plan, self.work, self.room)
        nothing = np.array([0, 0, -1, 0], dtype=np.int64)  # no plan is better
        tables = (self.stages, self.plan, self.work, self.buffers)
        anneal_held(*tables, self.state, nothing, self.room, (0, 0, 1), (1.0,) * 6)

    def num_steps(self) -> int:
        """Steps that are worth taking once; they depend on the graph only."""
        num_ops = len(self.orders.reads)
        per_step = _work_per_step(self.orders)
        if not IS_COMPILED:
            return _WORK_INTERPRETED // (_FIXED_INTERPRETED + per_step)
        return min(_STEPS_PER_OP * num_ops, _WORK // max(1, per_step))

    @property
    def size(self) -> int:
        """How much there is to walk over: decisions, and reads."""
        return int(self.decided.sum()) + int(self.stages.reads.size)

    @property
    def has_choices(self) -> bool:
        """Whether there is anything to decide."""
        return bool(self.decided.any()) and self.stages.row.size > 0

    def _is_decided(self, storage: int) -> bool:
        """Whether it is a matter of choice to keep a storage or to make it again."""
        graph, region = self.orders.graph, self.orders.region
        op = graph.producer[storage]
        return (
            self.orders.rerunnable[op]
            and bool(graph.readers[storage])
            and all(region[r] == region[op] for r in graph.readers[storage])
        )

    @property
    def best_order(self) -> list[int] | None:
        """The cheapest order that fits."""
        if self.found[0] < 0:
            return None
        return [int(op) for op in self.buffers[2][: int(self.found[1])]]

    @property
    def lean_order(self) -> list[int] | None:
        """The order with the lowest peak."""
        if not self.found[3]:
            return None
        return [int(op) for op in self.buffers[3][: int(self.found[3])]]

    def order(self) -> list[int]:
        """The order of the plan as it stands."""
        order = np.zeros_like(self.buffers[2])
        length = write_order(self.stages, self.plan, order)
        return [int(op) for op in order[:length]]

    def settle(self, order: Sequence[int], room: int) -> bool:
        """Makes an order the plan; whether the tables can say it."""
        keep, hold = self.encode(order)
        at_turn = [keep[k] or self.orders.graph.is_output[s] for k, s in enumerate(self.forward)]
        self.plan.keep[:] = keep
        self.plan.hold[:] = hold
        self.plan.at_hand[:, 0] = at_turn
        return bool(settle(self.stages, self.plan, self.work, room))

    def encode(self, order: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The tables of a plan: what the order keeps and holds."""
        orders, graph = self.orders, self.orders.graph
        num_forward = graph.num_forward
        keep = np.zeros(len(graph.storages), dtype=np.int64)
        for storage, is_decided in zip(self.forward, self.decided.tolist(), strict=True):
            fixed = not is_decided and bool(graph.readers[storage])
            keep[storage] = fixed and graph.is_required[graph.producer[storage]]
        hold = np.ones((len(graph.storages), len(graph.ops) - num_forward), dtype=np.uint8)
        left = sum(graph.is_required)
        head, seen = 0, set[int]()
        while left:
            left -= graph.is_required[order[head]] and order[head] not in seen
            seen.add(order[head])
            head += 1
        # Per storage of the forward, the backward op that touched its instance last; -1: none yet.
        last = {s: -1 for op in order[:head] for s in orders.writes[op]}
        row = 0
        for op in order[head:]:
            for storage in orders.reads[op]:
                if last.get(storage, 0) < 0:
                    keep[storage] = 1
                last[storage] = row
            if op >= num_forward:
                row += 1
                continue
            for storage in orders.writes[op]:
                if 0 <= last.get(storage, -1) < row:
                    hold[storage, last[storage]] = 0
                last[storage] = row
        return keep[self.forward], hold[self.forward][:, self.stages.row]

    def walk(
        self,
        start: Sequence[int],
        walks: Sequence[tuple[float, float]],
        steps: int,
        deadline: float,
    ) -> None:
        """Some walks: the first from an order that runs, the others from the best met.

        Args:
            start: The order.
            walks: First temperature of each, and first weight of bytes over the room.
            steps: Number of steps of each.
            deadline: Makes the walks shorter ones, and ends them early.
        """
        for number, (hot, light) in enumerate(walks):
            now = time.monotonic()
            until = now + (deadline - now) / (len(walks) - number)
            order, aim = self.best_order or start, 0
            lean = self.lean_order
            if self.best_order is None and lean is not None:
                order, aim = lean, int(self.orders.evaluate(lean)[0] * _LEANER)
            self.run(order, steps, until, hot, light, aim=aim)

    def run(
        self,
        order: Sequence[int],
        steps: int,
        deadline: float,
        hot: float,
        light: float,
        *,
        aim: int = 0,
    ) -> None:
        """One walk from hot to cold, from an order that runs.

        Args:
            order: Where to start; if the tables cannot say it, nothing is done.
            steps: Number of steps.
            deadline: Makes the walk a shorter one, and ends it early.
            hot: First temperature.
            light: First weight of bytes over the room.
            aim: Bytes to come under, where nothing under the room is known; the room if that is
                more. Beside it, what is found is known by its peak alone.
        """
        if not self.has_choices or self.found[0] == 0 or time.monotonic() >= deadline:
            return
        aim = max(self.room, aim)
        scale = (*self.units, hot, hot * _COOLING, light, _HEAVY)
        if not self.settle(order, aim):
            return
        walk = partial(self._anneal, room=aim, scale=scale)
        started = time.monotonic()
        first, most = 0, steps
        while first < steps:
            stop = min(first + _CHUNK, steps)
            walk(steps=(first, stop, steps))
            first = stop
            now = time.monotonic()
            if self.found[0] == 0 or now > deadline:
                break
            # A walk that is cut off ends hot: rather take all of a shorter one.
            in_time = (deadline - now) * first / max(1e-9, now - started)
            steps = first + int(min(most - first, in_time))
        if aim > self.room:
            self.found[0] = -1
            lean = self.lean_order
            if lean is not None and self.settle(lean, self.room):
                self._anneal(steps=(0, 0, 1), room=self.room, scale=scale)

    def _anneal(
        self,
        *,
        steps: tuple[int, int, int],
        room: int,
        scale: tuple[float, float, float, float, float, float],
    ) -> None:
        """Some steps of a walk from the plan as it stands."""
        tables = (self.stages, self.plan, self.work, self.buffers)
        anneal_held(*tables, self.state, self.found, room, steps, scale)
