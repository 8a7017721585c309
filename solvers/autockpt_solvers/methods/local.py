"""`local`: simulated annealing over compute orders, in which an op may stand several times.

After FastSA, which anneals sequences of ops the same way, with another energy. A state is a
compute order; a step moves one run, makes a value again right before one of its readers, or drops
a run. The energy is the recompute time plus the bytes over the room summed over all runs, whose
weight rises while the temperature falls. Short walks come first and longer ones after them, each
from the best so far.
Guarantee: every order on the way is valid; nothing about the distance to the best plan.
Complexity: linear in runs and reads per step; the number of steps is fixed by the size of the
graph, and the time limit cuts it short. Without numba each step takes some hundred times longer.
Weakness: on graphs of many thousand ops the steps do not suffice; backward ops stay in their
order and run once; equal layers are not seen as such.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.methods.annealing import anneal, evaluate
from autockpt_solvers.methods.attempt import Attempt
from autockpt_solvers.methods.compiling import IS_COMPILED
from autockpt_solvers.methods.orders import Orders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.problem import Problem

_CHUNK = 2048
_WALKS = (0.04, 0.12, 0.3, 0.54)  # shares of the steps
_WORK = 20_000_000_000  # reads and runs that all walks together look at
_WORK_INTERPRETED = 50_000_000
_STEPS_PER_OP = 20_000  # on graphs of up to 100 ops; beyond, they grow with the ops
_HOT = 1.0
_COLD = 0.02
_LIGHT = 0.1
_HEAVY = 3.0
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
    effort: float = 1.0,
    goal_ns: int = 0,
) -> Attempt:
    """Offers what annealing from a valid order finds; never worse than that order.

    Args:
        problem: The problem.
        start: A valid order.
        time_limit_s: Ends the search.
        seed: Random seed.
        effort: Share of the usual number of steps.
        goal_ns: Recompute time that is good enough.

    Returns:
        The cheapest order that fits and the one with the lowest peak.
    """
    walker = Walker(problem.graph, start, problem.room_bytes, seed, effort)
    walker.goal = goal_ns
    walker.run(time_limit_s)
    found = [order for order in (walker.best_order, walker.lean_order) if order is not None]
    return Attempt(orders=tuple(found))


class Walker:
    """A graph as arrays, and the best orders met so far."""

    def __init__(
        self, graph: ComputeGraph, start: Sequence[int], room_bytes: int, seed: int, effort: float
    ) -> None:
        self.arrays = graph_arrays(graph)
        self.room = room_bytes
        self.goal = 0
        size = len(start) + max(8, min(_REPEATS * len(start), 4000))
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
            self.found[2:] = peak, self.length
            self.lean[:] = self.order

    def run(self, seconds: float) -> None:
        """Walks until the steps or the seconds are used up, or nothing is left to gain."""
        deadline = time.monotonic() + seconds
        pace = 0.0
        for share in _WALKS:
            steps = max(_CHUNK, int(self.steps * share))
            left = deadline - time.monotonic()
            if pace:
                # A walk that is cut off ends hot: rather take all of a shorter one.
                steps = min(steps, int(left / pace))
            if left <= 0 or steps < _CHUNK or self._is_done:
                return
            if self.found[0] >= 0:
                self.length = int(self.found[1])
                self.order[:] = self.best
            pace = self._walk(steps, deadline)

    def _walk(self, steps: int, deadline: float) -> float:
        """One walk from hot to cold; gives the seconds per step."""
        first = 0
        started = time.monotonic()
        while first < steps:
            stop = min(first + _CHUNK, steps)
            self.length = anneal(
                self.order,
                self.length,
                self.arrays,
                self.work,
                self.state,
                self.best,
                self.lean,
                self.found,
                self.room,
                (first, stop, steps),
                (self.unit_time, self.unit_bytes, _HOT, _COLD, _LIGHT, _HEAVY),
            )
            if first == 0:
                started = time.monotonic()  # the first chunk may have been compiled
            first = stop
            if self._is_done or time.monotonic() > deadline:
                break
        return (time.monotonic() - started) / max(1, first - _CHUNK)


def graph_arrays(graph: ComputeGraph) -> tuple[NDArray[np.int64], ...]:
    """The graph as `annealing` wants it."""
    reads_at, reads = _ragged([op.reads for op in graph.ops])
    writes_at, writes = _ragged([op.writes for op in graph.ops])
    num_regions = 1 + max((op.region for op in graph.ops), default=0)
    backward_in = [0] * num_regions
    for op in graph.ops:
        backward_in[op.region] += op.is_backward
    lists: list[Sequence[int]] = [
        [s.size_bytes for s in graph.storages],
        [op.workspace_bytes for op in graph.ops],
        [op.runtime_ns for op in graph.ops],
        graph.is_output,
        graph.is_required,
        [op.is_backward for op in graph.ops],
        [op.region for op in graph.ops],
        backward_in,
        Orders(graph).rerunnable,
        graph.producer,
    ]
    columns = [np.array(column, dtype=np.int64) for column in lists]
    return (reads_at, reads, writes_at, writes, *columns)


def _ragged(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    starts = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
    return starts, np.array([entry for row in rows for entry in row], dtype=np.int64)
