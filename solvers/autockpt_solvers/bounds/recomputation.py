"""Proven lower bounds on recompute time, by minimum cuts.

`lower_bound_ns` holds for every schedule that runs each backward op once, in the graph's order.
Forward ops may run at any time, any number of times.

It looks at a few time steps, each the run of one backward op. A storage that is needed after a time
step is either in memory then, or its op runs again later, and so on with what that op reads. What
is in memory must fit beside the forced bytes. An op that runs again after any of the time steps
costs its time once. With a price on the bytes of every time step, this relaxation is one minimum
cut, with a layer per time step and the ops' times shared (Lagrangian duality). Cutting planes find
the prices that give the highest bound. Time steps are added where the relaxed plan needs most
memory. Capacities are rounded down, so the bound holds exactly.

`any_plan_bound_ns` uses one time step only: the end of the forward pass, after the last op that the
forward pass must run and before the first backward op, whichever that is. What any backward op
reads is in memory then, or its op runs again. So this bound also holds for schedules that reorder
or repeat backward ops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.bounds.peak import forced_bytes
from autockpt_solvers.clock import Clock
from autockpt_solvers.orders.capacities import PER_NS, UNCUT
from autockpt_solvers.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.session import Session

_MAX_TIME_STEPS = 10  # zoo graphs, at f = 0.5 to 0.1, use at most 3
_MAX_NODES = 150_000  # of the network; larger graphs get fewer time steps
_MAX_CUTS = 60  # per set of time steps; zoo graphs take at most 14
_HIGHEST_PRICE = 1e4  # in shares of all time per scale of bytes; keeps the linear program bounded
_CLOSE_ENOUGH = 1.0005  # the planes promise no more than this times the bound: stop
_FORWARD_END = -1  # the time step before the first backward op


class Relaxation:
    """What is needed after a time step, and the arcs of its layer in the network."""

    def __init__(self, graph: ComputeGraph, budget: int) -> None:
        self.graph = graph
        self.budget = budget
        # The last entry is for the end of the forward pass: only outputs are forced there.
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
        """The time step at which a plan that runs `again` is most over the budget, and how far."""
        graph, offset = self.graph, self.num_forward
        # From the end backwards: until when a storage is needed, given what runs again.
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
        over = np.cumsum(change)[offset:-1] + np.array(self.forced[:_FORWARD_END]) - self.budget
        step = int(np.argmax(over))
        return step, int(over[step])

    def layer(self, step: int) -> list[tuple[int, int, int]]:
        """Arcs (tail, head, bytes) of a time step; -1 bytes mean no limit.

        Nodes are ops, then storages, then -1 for the source and -2 for the sink.
        """
        graph, offset = self.graph, self.num_forward
        now = offset + step
        at_hand = set(graph.ops[now].reads) if step != _FORWARD_END else set()
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


class _LayeredCuts:
    """Minimum cuts of a network with a layer per time step."""

    def __init__(self, relaxation: Relaxation, steps: list[int]) -> None:
        offset = relaxation.num_forward
        per_layer = offset + len(relaxation.graph.storages)
        self.relaxation = relaxation
        self.steps = steps
        self.num_ops = offset
        self.source = offset + len(steps) * per_layer
        self.sink = self.source + 1
        rows: list[tuple[int, int, int, int]] = []
        for k, step in enumerate(steps):
            base = offset + k * per_layer
            ops = set()
            for tail, head, size in relaxation.layer(step):
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
        self.times = np.array(times, dtype=np.int64) * PER_NS

    def cut(self, prices: np.ndarray) -> tuple[float, np.ndarray, set[int]] | None:
        """The bound at these prices, its gradient, and what runs again.

        None if the prices are too high for the flow to be added up.
        """
        from ortools.graph.python import max_flow

        exact = np.floor(prices[self.layers] * self.sizes * PER_NS)
        capacity = np.where(self.sizes < 0, UNCUT, np.minimum(exact, UNCUT))
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
            self.layers[crossing], weights=self.sizes[crossing], minlength=len(self.steps)
        )
        forced = self.relaxation.forced
        free = np.array([self.relaxation.budget - forced[step] for step in self.steps])
        value = flow.optimal_flow() / PER_NS - float(prices @ free)
        return value, held - free, {op for op in self.op_nodes.tolist() if side[op]}


def lower_bound_ns(problem: Problem, *, time_limit_s: float, clock: Clock | None = None) -> int:
    """Recompute time of every schedule that runs each backward op once, in the graph's order.

    Args:
        problem: The problem; its budget may be one that nothing fits.
        time_limit_s: Ends the search; the bound reached by then holds.
        clock: The clock of the search, if it is a part of one.

    Returns:
        The bound.
    """
    graph = problem.graph
    if graph.num_forward in (0, len(graph.ops)):
        return 0
    clock = clock or Clock()
    deadline = clock.until(time_limit_s)
    relaxation = Relaxation(graph, problem.available_bytes)
    most = max(1, min(_MAX_TIME_STEPS, _MAX_NODES // (len(graph.storages) + graph.num_forward)))
    step, over = relaxation.excess(set())
    steps: list[int] = []
    prices = np.zeros(0)
    best = 0.0
    while over > 0 and step not in steps and len(steps) < most:
        steps.append(step)
        prices = np.append(prices, 0.0)
        value, prices, again = _ascend(_LayeredCuts(relaxation, steps), prices, clock, deadline)
        best = max(best, value)
        if clock.now() > deadline:
            break
        step, over = relaxation.excess(again)
    return max(0, int(best))


def any_plan_bound_ns(problem: Problem, *, time_limit_s: float, clock: Clock | None = None) -> int:
    """Recompute time of every schedule, also one that reorders or repeats backward ops.

    Args:
        problem: The problem; its budget may be one that nothing fits.
        time_limit_s: Ends the search; the bound reached by then holds.
        clock: The clock of the search, if it is a part of one.

    Returns:
        The bound, at most what `lower_bound_ns` gives with enough time steps.
    """
    graph = problem.graph
    if graph.num_forward in (0, len(graph.ops)):
        return 0
    clock = clock or Clock()
    cuts = _LayeredCuts(Relaxation(graph, problem.available_bytes), [_FORWARD_END])
    value, _, _ = _ascend(cuts, np.zeros(1), clock, clock.until(time_limit_s))
    return max(0, int(value))


def bound_below_ns(
    session: Session,
    budget: int,
    deadline: float,
    bound_ns: Callable[..., int] = lower_bound_ns,
) -> int:
    """Recompute time of every plan whose peak is below a budget; computed once per session.

    Args:
        session: The session.
        budget: Bytes that the graph may use.
        deadline: Ends the search for the bound.
        bound_ns: The bound.
    """
    key = (bound_ns, budget)
    if key not in session.bounds_ns:
        below = Problem(graph=session.graph, budget_bytes=max(0, budget - 1))
        left = session.clock.seconds_left(deadline)
        session.bounds_ns[key] = bound_ns(below, time_limit_s=left, clock=session.clock)
    return session.bounds_ns[key]


def _ascend(
    cuts: _LayeredCuts, start: np.ndarray, clock: Clock, deadline: float
) -> tuple[float, np.ndarray, set[int]]:
    """Kelley's cutting planes: the highest bound over all prices, the prices, what runs again."""
    from ortools.linear_solver import pywraplp

    # In the linear program times are shares of all time, and prices are per scale of bytes.
    total = max(1.0, float(cuts.times.sum()) / PER_NS)
    scale = max(1.0, float(max(cuts.sizes.max(initial=1), cuts.relaxation.budget)))
    solver = pywraplp.Solver.CreateSolver("GLOP")
    top = solver.NumVar(0.0, 1.0, "")
    variables = [solver.NumVar(0.0, _HIGHEST_PRICE, "") for _ in range(start.size)]
    solver.Maximize(top)
    best, best_prices, best_again = 0.0, start, set[int]()
    prices = start
    for _ in range(_MAX_CUTS):
        cut = cuts.cut(prices)
        if cut is None:
            break
        value, slope, again = cut
        if value > best or not best_again:
            best, best_prices, best_again = max(best, value), prices, again
        if clock.now() > deadline:
            break
        row = solver.Constraint(-solver.infinity(), (value - float(slope @ prices)) / total)
        row.SetCoefficient(top, 1.0)
        for variable, coefficient in zip(variables, slope.tolist(), strict=True):
            row.SetCoefficient(variable, -coefficient / scale)
        if solver.Solve() != pywraplp.Solver.OPTIMAL:
            break
        if top.solution_value() * total <= best * _CLOSE_ENOUGH + 1:
            break
        target = np.array([v.solution_value() for v in variables]) * total / scale
        # Going halfway to where the planes point is steadier than going there at once.
        prices = target if best == 0 else (target + best_prices) / 2
    return best, best_prices, best_again
