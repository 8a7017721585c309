"""`local`: simulated annealing over compute orders, in which an op may stand several times.

After FastSA, which anneals sequences of ops the same way, with another energy. A state is a
compute order; a step moves one run, makes a value again right before one of its readers, or drops
a run. The energy is the recompute time plus the bytes over the room summed over all runs, whose
weight rises while the temperature falls. Short walks come first and longer ones after them, each
from the best so far.
On graphs without a backward pass the inner loop is that of `slots`.
Guarantee: every order on the way is valid; nothing about the distance to the best plan.
Complexity: linear in runs and reads per step, in `slots` in what the moved run touches; the
number of steps is fixed by the size of the graph, and the time limit cuts it short. Without numba
each step takes some hundred times longer.
Weakness: on graphs of many thousand ops the steps do not suffice; backward ops stay in their
order and run once; equal layers are not seen as such.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.compiling import IS_COMPILED
from autockpt_solvers.methods.local.anneal_orders import anneal, evaluate
from autockpt_solvers.methods.local.slot_intervals import MOST_RUNS
from autockpt_solvers.methods.local.slots import SPREAD, read, settle, walk
from autockpt_solvers.orders.facts import Orders
from autockpt_solvers.orders.tally import flat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.problem import Problem

_CHUNK = 2048
_WORK = 20_000_000_000  # reads and runs that all walks together look at
_WORK_INTERPRETED = 50_000_000
_STEPS_PER_OP = 20_000  # on graphs of up to 100 ops; beyond, they grow with the ops
_SLOT_STEPS = 2_000_000
_SLOT_STEPS_INTERPRETED = 20_000
_REPEATS = 4  # runs per op, at most


def solve_local(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers the cheapest order found that fits, and the one with the lowest peak."""
    return improve(problem, Orders(problem.graph).baseline(), time_limit_s=time_limit_s, seed=seed)


def improve(
    problem: Problem,
    start: Sequence[int],
    *,
    time_limit_s: float,
    seed: int,
    goal_ns: int = 0,
    others: Sequence[Sequence[int]] = (),
    effort: float = 1.0,
) -> Attempt:
    """Offers what annealing from a valid order finds; never worse than that order.

    Args:
        problem: The problem.
        start: A valid order.
        time_limit_s: Ends the search.
        seed: Random seed.
        goal_ns: Recompute time that is good enough.
        others: Valid orders to start from too, each with a short walk, before the long one.
        effort: Share of the usual number of steps.

    Returns:
        The cheapest order that fits and the one with the lowest peak.
    """
    graph = problem.graph
    is_free = graph.num_forward == len(graph.ops) > 0 and len({op.region for op in graph.ops}) == 1
    kind = SlotWalker if is_free else Walker
    walker = kind(graph, start, problem.room_bytes, seed, others)
    walker.goal = goal_ns
    walker.steps = int(walker.steps * effort)
    walker.run(time_limit_s)
    found = [order for order in (walker.best_order, walker.lean_order) if order is not None]
    return Attempt(orders=tuple(without_idle_runs(graph, order) for order in found))


class Walker:
    """A graph as arrays, and the best orders met so far.

    Attributes:
        walks: Shares of the steps.
        hot, cold: First and last temperature of a walk.
        light, heavy: First and last weight of bytes over the room.
    """

    walks: tuple[float, ...] = (0.04, 0.12, 0.3, 0.54)
    hot, cold, light, heavy = 1.0, 0.02, 0.1, 3.0

    def __init__(
        self,
        graph: ComputeGraph,
        start: Sequence[int],
        room_bytes: int,
        seed: int,
        others: Sequence[Sequence[int]] = (),
    ) -> None:
        self.arrays = graph_arrays(graph)
        self.room = room_bytes
        self.goal = 0
        self.others = others
        self.longest = max(map(len, (start, *others)))
        size = self.longest + max(8, min(_REPEATS * len(start), 4000))
        num_regions = 1 + max((op.region for op in graph.ops), default=0)
        self.work = (
            np.zeros(len(graph.storages), dtype=np.int64),
            np.zeros(len(graph.storages), dtype=np.int64),
            np.zeros(len(graph.ops), dtype=np.int64),
            np.zeros(size + 2, dtype=np.int64),
            np.zeros(num_regions, dtype=np.int64),
        )
        self.order = np.zeros(size, dtype=np.int64)
        self.best = np.zeros(size, dtype=np.int64)
        self.lean = np.zeros(size, dtype=np.int64)
        self.found = np.array([-1, 0, 1 << 62, 0], dtype=np.int64)
        self.state = np.array([1 + seed % 2147483646], dtype=np.int64)
        self.length = len(start)
        self.order[: self.length] = start
        self._note()
        num = max(1, len(graph.ops))
        self.unit_time = max(1.0, sum(op.runtime_ns for op in graph.ops) / num)
        self.unit_bytes = max(1.0, sum(s.size_bytes for s in graph.storages) / num)
        self.scale = (self.unit_time, self.unit_bytes, self.hot, self.cold, self.light, self.heavy)
        per_step = len(start) * 2 + sum(len(op.reads) for op in graph.ops) + 10
        self.steps = min(
            _STEPS_PER_OP * len(start), (_WORK if IS_COMPILED else _WORK_INTERPRETED) // per_step
        )

    @property
    def best_order(self) -> list[int] | None:
        """The cheapest order that fits."""
        if self.found[0] < 0:
            return None
        return [int(op) for op in self.best[: int(self.found[1])]]

    @property
    def lean_order(self) -> list[int]:
        """The order with the lowest peak."""
        return [int(op) for op in self.lean[: int(self.found[3])]]

    @property
    def _is_done(self) -> bool:
        """Whether the best order is as good as the goal."""
        return 0 <= int(self.found[0]) <= self.goal

    def _note(self) -> None:
        """Takes the current order for the best where it is."""
        args = (self.order, self.length, self.arrays, self.work, self.room)
        over, peak, recompute = evaluate(*args)
        assert over >= 0, "walks start from orders that run"
        if over == 0 and (self.found[0] < 0 or recompute < self.found[0]):
            self.found[:2] = recompute, self.length
            self.best[:] = self.order
        if peak < self.found[2]:
            self.found[2:4] = peak, self.length
            self.lean[:] = self.order

    def run(self, seconds: float) -> None:
        """Walks until the steps or the seconds are used up, or nothing is left to gain."""
        self._anneal((0, 0, 1))  # compiles, where that was never done here: no part of the search
        deadline = time.monotonic() + seconds
        pace = 0.0
        starts = list(self.others)
        short, *rest = self.walks
        for share in (*(short for _ in range(1 + len(starts))), *rest):
            steps = max(_CHUNK, int(self.steps * share))
            left = deadline - time.monotonic()
            if pace:
                # A walk that is cut off ends hot: rather take all of a shorter one.
                steps = min(steps, int(left / pace))
            if left <= 0 or steps < _CHUNK or self._is_done:
                return
            if pace and starts:
                start = starts.pop(0)
                self.length = len(start)
                self.order[: self.length] = start
            elif self.found[0] >= 0:
                self.length = int(self.found[1])
                self.order[:] = self.best
            pace = self._walk(steps, deadline)

    def _walk(self, steps: int, deadline: float) -> float:
        """One walk from hot to cold; gives the seconds per step."""
        first = 0
        started = time.monotonic()
        while first < steps:
            stop = min(first + _CHUNK, steps)
            self.length = self._anneal((first, stop, steps))
            first = stop
            if self._is_done or time.monotonic() > deadline:
                break
        return (time.monotonic() - started) / max(1, first)

    def _anneal(self, steps: tuple[int, int, int]) -> int:
        """Takes some steps of a walk; gives the order's length."""
        return anneal(
            self.order,
            self.length,
            self.arrays,
            self.work,
            self.state,
            self.best,
            self.lean,
            self.found,
            self.room,
            steps,
            self.scale,
        )


class SlotWalker(Walker):
    """The same with the inner loop of `slots`: on graphs of one region without a backward pass."""

    walks = (0.2, 0.7)
    hot, cold, light, heavy = 1.0, 0.003, 0.005, 2.0

    def __init__(
        self,
        graph: ComputeGraph,
        start: Sequence[int],
        room_bytes: int,
        seed: int,
        others: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__(graph, start, room_bytes, seed, others)
        self.found = np.append(self.found, 1 << 62)
        most = _SLOT_STEPS if IS_COMPILED else _SLOT_STEPS_INTERPRETED
        self.steps = min(_STEPS_PER_OP * len(start), most)
        arrays = self.arrays
        readers = [np.array(column, dtype=np.int64) for column in flat(graph.readers)]
        self.slot_arrays = (*arrays[:4], *readers, *arrays[4:8], *arrays[12:14])
        num, touched = len(graph.ops), max(len(op.reads) + len(op.writes) for op in graph.ops)

        def zeros(*sizes: int) -> tuple[NDArray[np.int64], ...]:
            return tuple(np.zeros(max(1, size), dtype=np.int64) for size in sizes)

        num_slots = SPREAD * self.longest + 8
        self.slots = zeros(num_slots, num_slots, MOST_RUNS * num, num, 4)
        self.slots[4][3] = room_bytes
        self.before, self.after = (
            zeros(MOST_RUNS * touched, MOST_RUNS * touched, touched) for _ in range(2)
        )

    def _anneal(self, steps: tuple[int, int, int]) -> int:
        graph, slots = self.slot_arrays, self.slots
        settle(self.order, self.length, graph, slots, self.before)
        walk(
            graph,
            slots,
            self.before,
            self.after,
            self.state,
            self.best,
            self.lean,
            self.found,
            steps,
            self.scale,
        )
        return int(read(self.order, slots))


def without_idle_runs(graph: ComputeGraph, order: Sequence[int]) -> list[int]:
    """Drops runs of which nothing is read, where the op runs another time."""
    kept: list[int] = []
    wanted: set[int] = set()
    runs = Counter(order)
    for op in reversed(order):
        writes = graph.ops[op].writes
        if runs[op] > 1 and not wanted.intersection(writes):
            runs[op] -= 1
            continue
        kept.append(op)
        wanted.difference_update(writes)
        wanted.update(graph.ops[op].reads)
    return kept[::-1]


def graph_arrays(graph: ComputeGraph) -> tuple[NDArray[np.int64], ...]:
    """The graph as `annealing` wants it."""
    num_regions = 1 + max((op.region for op in graph.ops), default=0)
    backward_in = [0] * num_regions
    for op in graph.ops:
        backward_in[op.region] += op.is_backward
    lists: list[Sequence[int]] = [
        *flat([op.reads for op in graph.ops]),
        *flat([op.writes for op in graph.ops]),
        [s.size_bytes for s in graph.storages],
        graph.working_bytes,
        [op.runtime_ns for op in graph.ops],
        graph.is_output,
        graph.is_required,
        [op.is_backward for op in graph.ops],
        [op.region for op in graph.ops],
        backward_in,
        Orders(graph).rerunnable,
        graph.producer,
    ]
    return tuple(np.array(column, dtype=np.int64) for column in lists)
