"""Proven lower bounds, for the class of plans named here.

The class: every schedule that runs each backward op exactly once, in the order of the graph that
is given. Forward ops may run any number of times, at any time the simulator allows. Nothing is
claimed for plans with another order, or that repeat backward ops.

`least_op_bytes`: some op needs this much by itself. This holds for every schedule there is.

`lower_bound_bytes`: while a backward op runs, what it reads and writes, its workspace, the
outputs made so far and the backward storages that later backward ops read are live under any such
schedule.

`lower_bound_ns`: look at the moments when some backward ops run. A storage that is needed after
such a moment is live then, or its op runs again later, and so on with what that op reads. What is
live must fit beside the forced bytes; an op that runs again after any of the moments costs its
time once. Pricing the bytes of every moment turns this relaxation into one minimum cut with a
layer per moment and the ops' times shared (Lagrangian duality), and cutting planes find the
prices that make the bound highest. Moments are added where the relaxed plan needs most.
Capacities are rounded down, so the bound holds exactly.

`turn_bound_ns`: the same with one moment only, the turn: after the last op that the forward pass
must run and before the first backward op, whichever that is. What any backward op reads is live
then, or its op runs after it. This holds for every schedule there is: ones that move or repeat
backward ops, or run them in place of what they read, as well.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.session import once

if TYPE_CHECKING:
    from collections.abc import Callable

    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.problem import Problem

BOUND_CLASS = "each backward op once, in the graph's order; forward ops at will"
MOVED_CLASS = "each backward op once, in an order chosen beforehand; forward ops at will"

_UNIT = 1 << 10  # capacities are in 1/1024 ns
_INFINITE = 1 << 58
_MAX_MOMENTS = 10
_MAX_CUTS = 60
_MAX_NODES = 150_000
_HIGHEST_PRICE = 1e4
_CLOSE = 1.0005
_TURN = -1  # the moment before the first backward op


def forced_bytes(graph: ComputeGraph) -> list[int]:
    """Per backward op, the bytes live while it runs under any schedule of the class."""
    num_forward, num_ops = graph.num_forward, len(graph.ops)
    change = [0] * (num_ops + 1)
    for storage, born in enumerate(graph.producer):
        size = graph.size(storage)
        readers = [r for r in graph.readers[storage] if r >= num_forward]
        if graph.is_output[storage]:
            change[max(born, num_forward)] += size
        elif born >= num_forward:
            change[born] += size
            change[max([born, *readers]) + 1] -= size
        else:
            for reader in readers:
                change[reader] += size
                change[reader + 1] -= size
    live = 0
    forced = []
    for index in range(num_forward, num_ops):
        live += change[index]
        forced.append(live + graph.working_bytes[index])
    return forced


def lower_bound_bytes(graph: ComputeGraph) -> int:
    """Bytes that no schedule of the class can stay under."""
    return max([least_op_bytes(graph), *forced_bytes(graph)])


def least_op_bytes(graph: ComputeGraph) -> int:
    """Bytes that no schedule at all can stay under: what the largest op that must run needs."""
    own = [
        working + sum(graph.size(s) for s in (*op.reads, *op.writes))
        for op, working, needed in zip(graph.ops, graph.working_bytes, graph.is_needed, strict=True)
        if needed
    ]
    return max(own, default=0)


class _Relaxation:
    """The graph's part in the bound: what is needed after a moment, and cuts at given prices."""

    def __init__(self, graph: ComputeGraph, room: int) -> None:
        self.graph = graph
        self.room = room
        # The last entry is the turn's: only what the caller will hold is forced there.
        made = [s for s in graph.outputs if graph.producer[s] < graph.num_forward]
        self.forced = [*forced_bytes(graph), sum(graph.size(s) for s in made)]
        self.num_forward = graph.num_forward
        # Time of running again; the first run of what only the backward needs is free.
        self.again = [
            None
            if graph.is_required[k]
            and (not op.recomputable or any(graph.is_output[s] for s in op.writes))
            else op.runtime_ns * graph.is_required[k]
            for k, op in enumerate(graph.ops[: graph.num_forward])
        ]
        self.last_reader = [
            max((r for r in readers if r >= graph.num_forward), default=-1)
            for readers in graph.readers
        ]

    def excess(self, again: set[int]) -> tuple[int, int]:
        """The moment at which a plan that runs `again` needs most beyond the room, and how much."""
        graph, offset = self.graph, self.num_forward
        # Walking back from the end: when a storage is last needed, given what runs again.
        until = [self.last_reader[s] for s in range(len(graph.storages))]
        for op in range(offset - 1, -1, -1):
            if op in again:
                end = max(until[s] for s in graph.ops[op].writes)
                for s in graph.ops[op].reads:
                    until[s] = max(until[s], end)
        change = np.zeros(len(graph.ops) + 1, dtype=np.int64)
        for s, end in enumerate(until):
            op = graph.producer[s]
            if op >= offset or graph.is_output[s] or end < 0 or op in again:
                continue
            if graph.is_required[op]:
                change[offset] += graph.size(s)
                change[end] -= graph.size(s)
                for reader in graph.readers[s]:
                    if offset <= reader < end:
                        change[reader] -= graph.size(s)
                        change[reader + 1] += graph.size(s)
        over = np.cumsum(change)[offset:-1] + np.array(self.forced[:_TURN]) - self.room
        moment = int(np.argmax(over))
        return moment, int(over[moment])

    def layer(self, moment: int) -> list[tuple[int, int, int]]:
        """Arcs (tail, head, bytes) of a moment; -1 bytes stand for no limit.

        Nodes: ops, then storages, then -1 for the source and -2 for the sink.
        """
        graph, offset = self.graph, self.num_forward
        now = offset + moment
        at_hand = set(graph.ops[now].reads) if moment != _TURN else set()
        arcs = []
        seen: set[int] = set()
        stack = [
            s
            for s, last in enumerate(self.last_reader)
            if last > now and graph.producer[s] < offset
        ]
        arcs += [(-1, offset + s, -1) for s in stack if not graph.is_output[s]]
        while stack:
            s = stack.pop()
            if s in seen or s in at_hand or graph.is_output[s]:
                continue
            seen.add(s)
            op = graph.producer[s]
            if self.again[op] is None:
                arcs.append((offset + s, -2, graph.size(s)))
                continue
            arcs.append((offset + s, op, graph.size(s)))
            for read in graph.ops[op].reads:
                if not graph.is_output[read] and read not in at_hand:
                    arcs.append((op, offset + read, -1))
                    stack.append(read)
        return [a for a in arcs if a[0] != -1 or a[1] - offset in seen]


class _Cutter:
    """Minimum cuts over several moments."""

    def __init__(self, relaxation: _Relaxation, moments: list[int]) -> None:
        offset = relaxation.num_forward
        per_layer = offset + len(relaxation.graph.storages)
        self.relaxation = relaxation
        self.moments = moments
        self.num_ops = offset
        self.source = offset + len(moments) * per_layer
        self.sink = self.source + 1
        rows: list[tuple[int, int, int, int]] = []
        for k, moment in enumerate(moments):
            base = offset + k * per_layer
            ops = set()
            for tail, head, size in relaxation.layer(moment):
                ends = []
                for node in (tail, head):
                    if 0 <= node < offset:
                        ops.add(node)
                    ends.append(
                        self.source if node == -1 else self.sink if node == -2 else base + node
                    )
                rows.append((ends[0], ends[1], size, k))
            rows.extend((base + op, op, -1, k) for op in sorted(ops))
        table = np.array(rows, dtype=np.int64).reshape(-1, 4)
        self.tails, self.heads, self.sizes, self.layers = table.T
        used = sorted({op for op in self.heads.tolist() if op < offset})
        self.op_nodes = np.array(used, dtype=np.int64)
        times = [relaxation.again[op] or 0 for op in used]
        self.times = np.array(times, dtype=np.int64) * _UNIT

    def cut(self, prices: np.ndarray) -> tuple[float, np.ndarray, set[int]] | None:
        """The bound at these prices, how it changes with them, and what runs again.

        None where the prices are too high for the flow to be added up.
        """
        from ortools.graph.python import max_flow

        exact = np.floor(prices[self.layers] * self.sizes * _UNIT)
        capacity = np.where(self.sizes < 0, _INFINITE, np.minimum(exact, _INFINITE))
        flow = max_flow.SimpleMaxFlow()
        flow.add_arcs_with_capacity(
            np.concatenate([self.tails, self.op_nodes]),
            np.concatenate([self.heads, np.full(self.op_nodes.size, self.sink)]),
            np.concatenate([capacity.astype(np.int64), self.times]),
        )
        if flow.solve(self.source, self.sink) != flow.OPTIMAL:
            return None
        side = np.zeros(self.sink + 1, dtype=bool)
        side[flow.get_source_side_min_cut()] = True
        crossing = side[self.tails] & ~side[self.heads] & (self.sizes > 0)
        held = np.bincount(
            self.layers[crossing], weights=self.sizes[crossing], minlength=len(self.moments)
        )
        room = np.array([self.relaxation.room - self.relaxation.forced[m] for m in self.moments])
        value = flow.optimal_flow() / _UNIT - float(prices @ room)
        return value, held - room, {op for op in self.op_nodes.tolist() if side[op]}


def lower_bound_ns(problem: Problem, *, time_limit_s: float) -> int:
    """Recompute time that no schedule of the class can stay under.

    Args:
        problem: The problem; its budget may be one that nothing fits.
        time_limit_s: Ends the search; the bound reached by then holds.

    Returns:
        The bound.
    """
    graph = problem.graph
    if graph.num_forward in (0, len(graph.ops)):
        return 0
    deadline = time.monotonic() + time_limit_s
    relaxation = _Relaxation(graph, problem.room_bytes)
    most = max(1, min(_MAX_MOMENTS, _MAX_NODES // (len(graph.storages) + graph.num_forward)))
    moment, over = relaxation.excess(set())
    moments: list[int] = []
    prices = np.zeros(0)
    best = 0.0
    while over > 0 and moment not in moments and len(moments) < most:
        moments.append(moment)
        prices = np.append(prices, 0.0)
        cutter = _Cutter(relaxation, moments)
        value, prices, again = _ascend(cutter, prices, deadline)
        best = max(best, value)
        if time.monotonic() > deadline:
            break
        moment, over = relaxation.excess(again)
    return max(0, int(best))


def turn_bound_ns(problem: Problem, *, time_limit_s: float) -> int:
    """Recompute time that no schedule at all can stay under; see the head of this file.

    Args:
        problem: The problem; its budget may be one that nothing fits.
        time_limit_s: Ends the search; the bound reached by then holds.

    Returns:
        The bound, at most what `lower_bound_ns` gives with enough moments.
    """
    graph = problem.graph
    if graph.num_forward in (0, len(graph.ops)):
        return 0
    cutter = _Cutter(_Relaxation(graph, problem.room_bytes), [_TURN])
    value, _, _ = _ascend(cutter, np.zeros(1), time.monotonic() + time_limit_s)
    return max(0, int(value))


def bound_below_ns(
    problem: Problem, deadline: float, bound_ns: Callable[..., int] = lower_bound_ns
) -> int:
    """What no plan for less than a problem's room recomputes less than.

    It is made once where searches share what they make.

    Args:
        problem: The problem.
        deadline: Ends the search for the bound.
        bound_ns: The bound.
    """
    below = replace(problem, budget_bytes=max(0, problem.room_bytes - 1), fixed_bytes=0)
    left = max(0.05, deadline - time.monotonic())
    name = f"{bound_ns.__name__} of {below.budget_bytes} bytes"
    return once(name, lambda: bound_ns(below, time_limit_s=left))


def _ascend(
    cutter: _Cutter, start: np.ndarray, deadline: float
) -> tuple[float, np.ndarray, set[int]]:
    """Kelley's cutting planes: the highest bound over all prices, the prices, what runs again."""
    from ortools.linear_solver import pywraplp

    # In the linear program times are shares of all time, and prices are per scale of bytes.
    total = max(1.0, float(cutter.times.sum()) / _UNIT)
    scale = max(1.0, float(max(cutter.sizes.max(initial=1), cutter.relaxation.room)))
    solver = pywraplp.Solver.CreateSolver("GLOP")
    top = solver.NumVar(0.0, 1.0, "")
    variables = [solver.NumVar(0.0, _HIGHEST_PRICE, "") for _ in range(start.size)]
    solver.Maximize(top)
    best, best_prices, best_again = 0.0, start, set[int]()
    prices = start
    for _ in range(_MAX_CUTS):
        cut = cutter.cut(prices)
        if cut is None:
            break
        value, slope, again = cut
        if value > best or not best_again:
            best, best_prices, best_again = max(best, value), prices, again
        if time.monotonic() > deadline:
            break
        row = solver.Constraint(-solver.infinity(), (value - float(slope @ prices)) / total)
        row.SetCoefficient(top, 1.0)
        for variable, coefficient in zip(variables, slope.tolist(), strict=True):
            row.SetCoefficient(variable, -coefficient / scale)
        if solver.Solve() != pywraplp.Solver.OPTIMAL:
            break
        if top.solution_value() * total <= best * _CLOSE + 1:
            break
        target = np.array([v.solution_value() for v in variables]) * total / scale
        # Halfway to where the planes point: steadier than going there at once.
        prices = target if best == 0 else (target + best_prices) / 2
    return best, best_prices, best_again
