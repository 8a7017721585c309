"""Relaxations with ever more moments, until one's order fits: a bound for every plan, and plans.

The relaxation (see `relaxation`) counts memory at a few moments only. Its solution says what runs
again and after which moment, and becomes a compute order: stage by stage, every repeated run right
before the first op that reads it. If that order fits, it is the best of all plans, whatever
their order and however often they run an op. If it does not, the moment at which it needs the most
memory joins the others, and the relaxation is solved again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.bounds.relaxation import Ancestry, Relaxation
from autockpt_solvers.clock import Clock, OutOfTime
from autockpt_solvers.schedule import Compute, with_frees
from autockpt_solvers.simulator import ScheduleError, simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.bounds.relaxation import Relaxed, Solution
    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.problem import Problem

MOST_OPS = 4_000  # ancestry takes time and memory with their square
_TRIALS = 6  # stop after this many single moments in a row that do not raise the bound
_ROUNDS = 3  # stop after this many added moments in a row that do not raise it
# Deterministic time of CP-SAT in all, in about seconds, and the share of it that one relaxation may
# take.
_EFFORT, _SHARE = 2.5, 0.4


@dataclass(slots=True, kw_only=True)
class Moments:
    """What the search found.

    Attributes:
        is_infeasible: Whether it proved that no plan fits.
        bound_ns: No plan that fits recomputes less.
        orders: Compute orders made on the way, the last ones from the tightest relaxations.
    """

    is_infeasible: bool = False
    bound_ns: int = 0
    orders: list[list[int]] = field(default_factory=list)


def solve_relaxations(
    problem: Problem,
    *,
    time_limit_s: float,
    seed: int,
    effort: float = _EFFORT,
    clock: Clock | None = None,
) -> Moments:
    """Solve relaxations with ever more moments until the order of one fits, or effort runs out.

    Args:
        problem: The problem.
        time_limit_s: Ends the search.
        seed: Random seed.
        effort: Ends it too: deterministic time of the integer programs, in about seconds.
        clock: The clock of the search, if it is a part of one.

    Returns:
        What was found; nothing if the graph is too large.
    """
    if len(problem.graph.ops) > MOST_OPS:
        return Moments()
    return _Rounds(problem, time_limit_s, seed, effort, clock or Clock()).run()


class _Rounds:
    """Rounds of relaxations of one graph."""

    def __init__(
        self, problem: Problem, time_limit_s: float, seed: int, effort: float, clock: Clock
    ) -> None:
        self.graph = problem.graph
        self.budget = problem.available_bytes
        self.ancestry = Ancestry(problem.graph)
        self.clock = clock
        self.deadline = clock.until(time_limit_s)
        self.effort = effort
        self.most = effort * _SHARE
        self.seed = seed
        self.found = Moments()
        self.pivots: list[int] = []

    def run(self) -> Moments:
        """Try single moments first, then add moments to the best of them."""
        relaxed = self._try_each()
        idle = 0
        while relaxed is not None and relaxed.solution is not None:
            fits, pivot = self._check(order_of(self.graph, relaxed.solution))
            if fits or pivot is None or idle == _ROUNDS:
                break
            self.pivots.append(pivot)
            self.pivots.sort(key=lambda op: self.ancestry.before[op].bit_count())
            before = self.found.bound_ns
            relaxed = self._relax(self.pivots)
            if relaxed is not None and relaxed.bound_ns < before:
                break  # cut short: one moment more can only raise it
            idle = 0 if self.found.bound_ns > before else idle + 1
        return self.found

    def _try_each(self) -> Relaxed | None:
        """The tightest relaxation of one moment, of those at which memory is shortest."""
        best: Relaxed | None = None
        idle = 0
        for pivot in self._by_pressure():
            relaxed = self._relax([pivot])
            if relaxed is None or self.found.is_infeasible or idle == _TRIALS:
                break
            if best is None or relaxed.bound_ns > best.bound_ns:
                best, self.pivots = relaxed, [pivot]
                idle = 0
            else:
                idle += 1
        return None if self.found.is_infeasible else best

    def _relax(self, pivots: Sequence[int]) -> Relaxed | None:
        left = self.deadline - self.clock.now()
        if left <= 0 or self.effort <= 0:
            return None
        try:
            relaxation = Relaxation(self.graph, self.ancestry, self.budget, pivots, self.clock)
        except OutOfTime:
            return None
        left = self.clock.seconds_left(self.deadline)
        effort = min(self.effort, self.most)
        relaxed = relaxation.solve(time_limit_s=left, effort=effort, seed=self.seed)
        self.effort -= relaxed.effort
        self.found.is_infeasible |= relaxed.is_infeasible
        self.found.bound_ns = max(self.found.bound_ns, relaxed.bound_ns)
        return relaxed

    def _by_pressure(self) -> list[int]:
        """Ops by the bytes at their first run if nothing runs twice, most first."""
        forced = bytes_at_first_run(self.graph, self.ancestry)
        needed = [k for k, is_needed in enumerate(self.graph.is_needed) if is_needed]
        return sorted(needed, key=lambda op: (-forced[op], op))

    def _check(self, order: list[int]) -> tuple[bool, int | None]:
        """Record the order; whether it fits, and the next pivot if it does not."""
        schedule = with_frees(self.graph, order)
        try:
            timeline = simulate(self.graph, schedule)
        except ScheduleError:
            # Regions and fences of a backward pass forbid what the relaxation allows.
            return False, None
        self.found.orders.append(order)
        if timeline.peak_bytes <= self.budget:
            return True, None
        live = [
            b
            for b, step in zip(timeline.live_bytes, schedule.steps, strict=True)
            if isinstance(step, Compute)
        ]
        seen: set[int] = set()
        # Each first run, with the most bytes at it or at the repeated runs right before it.
        needs: list[tuple[int, int]] = []
        most = 0
        for op, num_bytes in zip(order, live, strict=True):
            most = max(most, num_bytes)
            if op in seen:
                continue
            seen.add(op)
            if most > self.budget and self._joins(op):
                needs.append((-most, op))
            most = 0
        return False, min(needs)[1] if needs else None

    def _joins(self, op: int) -> bool:
        return op not in self.pivots and all(
            self.ancestry.are_ordered(op, pivot) for pivot in self.pivots
        )


def bytes_at_first_run(graph: ComputeGraph, ancestry: Ancestry) -> list[int]:
    """Per op, the bytes live at its first run in any plan that runs nothing twice."""
    num = len(graph.ops)
    forced = np.array(
        [
            working + sum(graph.size(s) for s in op.writes)
            for working, op in zip(graph.working_bytes, graph.ops, strict=True)
        ],
        dtype=np.int64,
    )
    for storage, op in enumerate(graph.producer):
        until = 0
        for reader in graph.readers[storage]:
            if graph.is_needed[reader]:
                until |= ancestry.before[reader] | 1 << reader
        present = ancestry.after[op]
        if not graph.is_output[storage]:
            present &= until
        bits = np.frombuffer(present.to_bytes(num // 8 + 1, "little"), dtype=np.uint8)
        forced += graph.size(storage) * np.unpackbits(bits, bitorder="little")[:num].astype(int)
    return [int(b) for b in forced]


def order_of(graph: ComputeGraph, solution: Solution) -> list[int]:
    """The order of a solution: repeated runs right before the first op that reads them."""
    order: list[int] = []
    for firsts, again, held in zip(solution.firsts, solution.again, solution.held, strict=True):
        at_hand = set(held)
        waiting = set(again)
        for op in firsts:
            order += _missing(graph, op, at_hand, waiting)
            order.append(op)
            at_hand.update(graph.ops[op].writes)
        for op in again:
            if op in waiting:
                order += _missing(graph, op, at_hand, waiting)
                order.append(op)
                at_hand.update(graph.ops[op].writes)
                waiting.remove(op)
    return _delayed(graph, order)


def _missing(graph: ComputeGraph, op: int, at_hand: set[int], waiting: set[int]) -> list[int]:
    """What must run again before an op: taken out of `waiting`, and its writes are at hand."""
    missing: set[int] = set()
    stack = [op]
    while stack:
        for storage in graph.ops[stack.pop()].reads:
            producer = graph.producer[storage]
            if storage not in at_hand and producer not in missing:
                missing.add(producer)
                stack.append(producer)
    waiting -= missing
    at_hand.update(s for again in missing for s in graph.ops[again].writes)
    return sorted(missing)


def _delayed(graph: ComputeGraph, order: list[int]) -> list[int]:
    """Move every repeated run to right before its first reader; drop it if there is none."""
    seen: set[int] = set()
    runs: list[tuple[int, bool]] = []
    for op in order:
        runs.append((op, op in seen))
        seen.add(op)
    late: list[int] = []  # from the end
    for op, is_again in reversed(runs):
        if not is_again:
            late.append(op)
            continue
        writes = set(graph.ops[op].writes)
        for place in range(len(late) - 1, -1, -1):
            if late[place] == op:
                break
            if writes.intersection(graph.ops[late[place]].reads):
                late.insert(place + 1, op)
                break
    return late[::-1]
