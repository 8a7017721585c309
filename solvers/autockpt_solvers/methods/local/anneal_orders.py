"""The inner loop of `local` on graphs with a backward pass: annealing over compute orders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autockpt_solvers.kernels.annealing import draw, is_taken, temperature_at, weight_at
from autockpt_solvers.kernels.compiling import compiled, compiled_within
from autockpt_solvers.orders.tally import access_of, numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autockpt_solvers.kernels.annealing import Cooling, Steps
    from autockpt_solvers.orders.facts import GraphFacts
    from autockpt_solvers.orders.tally import Numbers

_RECOOL = 64  # steps from one change of temperature to the next
# Out of 16 kinds of changes, drawn evenly: recompute a value for one reader (3), drop a run (3),
# move a run (10).
KINDS, ADD_BELOW, DROP_BELOW = 16, 3, 6


class OrderGraph(NamedTuple):
    """A graph as arrays.

    Attributes:
        reads_at, reads, writes_at, writes: As in `Access`.
        size_bytes: Per storage.
        is_output: Per storage.
        producer: Per storage, its op.
        working_bytes: Per op; see `ComputeGraph`.
        runtime_ns: Per op.
        is_required: Per op.
        is_rerunnable: Per op.
        is_backward: Per op.
        region: Per op.
        backward_in: Per region, the number of its backward ops.
    """

    reads_at: Numbers
    reads: Numbers
    writes_at: Numbers
    writes: Numbers
    size_bytes: Numbers
    is_output: Numbers
    producer: Numbers
    working_bytes: Numbers
    runtime_ns: Numbers
    is_required: Numbers
    is_rerunnable: Numbers
    is_backward: Numbers
    region: Numbers
    backward_in: Numbers


class OrderScratch(NamedTuple):
    """What evaluating an order needs.

    Attributes:
        last: Per storage, the place that touches it last.
        born: Per storage, the place that writes it.
        runs: Per op, how often it has run.
        change: Per place, bytes that come or go.
        backward_left: Per region, the number of its backward ops that are left to run.
    """

    last: Numbers
    born: Numbers
    runs: Numbers
    change: Numbers
    backward_left: Numbers


def order_graph(facts: GraphFacts) -> OrderGraph:
    """A graph as arrays."""
    graph = facts.graph
    backward_in = [0] * (1 + max((op.region for op in graph.ops), default=0))
    for op in graph.ops:
        backward_in[op.region] += op.is_backward
    return OrderGraph(
        *access_of(graph),
        size_bytes=numbers(facts.sizes),
        is_output=numbers(graph.is_output),
        producer=numbers(graph.producer),
        working_bytes=numbers(graph.working_bytes),
        runtime_ns=numbers(facts.runtime),
        is_required=numbers(graph.is_required),
        is_rerunnable=numbers(facts.rerunnable),
        is_backward=numbers(op.is_backward for op in graph.ops),
        region=numbers(facts.region),
        backward_in=numbers(backward_in),
    )


def order_scratch(graph: OrderGraph, most_runs: int) -> OrderScratch:
    """Scratch for orders of at most so many runs."""
    num_storages, num_ops = graph.producer.size, graph.region.size
    sizes = (num_storages, num_storages, num_ops, most_runs + 2, graph.backward_in.size)
    return OrderScratch(*(np.zeros(size, dtype=np.int64) for size in sizes))


@compiled
def evaluate(  # noqa: C901 - one pass over the order, with all the rules of the simulator
    order: Numbers, length: int, graph: OrderGraph, scratch: OrderScratch, budget: int
) -> tuple[int, int, int]:
    """Bytes over the budget, summed over the runs; the peak; the recompute time.

    Args:
        order: Ops in the order they run; the first `length` count.
        length: Number of runs.
        graph: The graph.
        scratch: Scratch.
        budget: Bytes that the graph may use.

    Returns:
        The three; -1 first if the order cannot run.
    """
    last, born, runs, change, left = scratch
    last[:] = -1
    born[:] = -1
    runs[:] = 0
    change[: length + 2] = 0
    left[:] = graph.backward_in
    current = left.size - 1
    waiting = graph.is_required.sum()
    reached = 0
    last_backward = -1
    recompute = 0
    for place in range(length):
        op = order[place]
        region = graph.region[op]
        if graph.is_backward[op]:
            if waiting > 0 or op <= last_backward:
                return -1, 0, 0
            last_backward = op
            left[region] -= 1
        elif waiting > 0:
            if region < reached:
                return -1, 0, 0
            reached = region
        else:
            while current >= 0 and left[current] == 0:
                current -= 1
            if region != current:
                return -1, 0, 0
        for k in range(graph.reads_at[op], graph.reads_at[op + 1]):
            storage = graph.reads[k]
            if born[storage] < 0:
                return -1, 0, 0
            last[storage] = place
        for k in range(graph.writes_at[op], graph.writes_at[op + 1]):
            storage = graph.writes[k]
            if born[storage] >= 0:
                change[last[storage] + 1] -= graph.size_bytes[storage]
            born[storage] = place
            last[storage] = place
            change[place] += graph.size_bytes[storage]
        if runs[op] > 0:
            recompute += graph.runtime_ns[op]
        elif graph.is_required[op]:
            waiting -= 1
        runs[op] += 1
    for storage in range(born.size):
        if born[storage] >= 0 and not graph.is_output[storage]:
            change[last[storage] + 1] -= graph.size_bytes[storage]
    live = 0
    peak = 0
    over = 0
    for place in range(length):
        live += change[place]
        here = live + graph.working_bytes[order[place]]
        peak = max(peak, here)
        over += max(0, here - budget)
    return over, peak, recompute


@compiled_within
def _shift(order: Numbers, length: int, removed: int, inserted: int, op: int) -> None:
    """Take the run at `removed` out (none below 0) and put `op` in at `inserted` (likewise)."""
    end = length
    if removed >= 0:
        stop = inserted if inserted > removed else end - 1
        if inserted < 0 or inserted > removed:
            for k in range(removed, stop):
                order[k] = order[k + 1]
        else:
            for k in range(removed, inserted, -1):
                order[k] = order[k - 1]
    else:
        for k in range(end, inserted, -1):
            order[k] = order[k - 1]
    if inserted >= 0:
        order[inserted] = op


@compiled_within
def _propose(
    order: Numbers,
    length: int,
    graph: OrderGraph,
    copies: Numbers,
    extra: int,
    random: np.random.Generator,
) -> tuple[int, int, int]:
    """A random change: an op, the place it leaves and the one it takes; -1 for none."""
    kind = draw(random, KINDS)
    place = draw(random, length)
    if kind < ADD_BELOW:
        reader = order[place]
        count = graph.reads_at[reader + 1] - graph.reads_at[reader]
        if length == order.size or count == 0:
            return 0, -1, -1
        op = graph.producer[graph.reads[graph.reads_at[reader] + draw(random, count)]]
        if not graph.is_rerunnable[op] or graph.is_backward[op]:
            return 0, -1, -1
        return op, -1, place
    if kind < DROP_BELOW:
        if extra == 0:
            return 0, -1, -1
        while copies[order[place]] < 2:
            place = place + 1 if place + 1 < length else 0
        return order[place], place, -1
    reach = 1 + draw(random, 1 + draw(random, length))
    target = place + reach if draw(random, 2) else place - reach
    if target < 0 or target >= length:
        return 0, -1, -1
    return order[place], place, target


@compiled
def anneal_orders(
    order: Numbers,
    length: int,
    graph: OrderGraph,
    scratch: OrderScratch,
    random: np.random.Generator,
    best: Numbers,
    lean: Numbers,
    found: NDArray[Any],
    budget: int,
    steps: Steps,
    cooling: Cooling,
) -> int:
    """Go from `order` through changed orders, taking worse ones ever more rarely.

    A change moves one run to another place, recomputes a value right before one of its readers, or
    drops a run that is not the only one.

    Args:
        order: Where to start; changed in place. Its size limits the number of runs.
        length: Number of runs in it.
        graph: The graph.
        scratch: Scratch.
        random: Random numbers.
        best: Gains the cheapest order that fits.
        lean: Gains the order with the lowest peak.
        found: One record of `FOUND`.
        budget: Bytes that the graph may use.
        steps: The steps to take.
        cooling: How the run cools.

    Returns:
        The length of `order`.
    """
    copies = np.zeros(graph.region.size, dtype=np.int64)
    extra = length
    for k in range(length):
        extra -= copies[order[k]] == 0
        copies[order[k]] += 1
    record = found[0]
    over, _, recompute = evaluate(order, length, graph, scratch, budget)
    temperature = cooling.first_temperature
    weight = cooling.first_weight
    for step in range(steps.first, steps.stop):
        if step % _RECOOL == 0 or step == steps.first:
            temperature = temperature_at(cooling, step / steps.total)
            weight = weight_at(cooling, step / steps.total)
        op, removed, inserted = _propose(order, length, graph, copies, extra, random)
        if removed < 0 and inserted < 0:
            continue
        _shift(order, length, removed, inserted, op)
        change = (inserted >= 0) - (removed >= 0)
        new_length = length + change
        new_over, new_peak, new_ns = evaluate(order, new_length, graph, scratch, budget)
        worse = (new_ns - recompute) / cooling.unit_ns
        worse += weight * (new_over - over) / cooling.unit_bytes
        if new_over < 0 or not is_taken(worse, temperature, random):
            _shift(order, new_length, inserted, removed, op)
            continue
        copies[op] += change
        extra += change
        length, over, recompute = new_length, new_over, new_ns
        if over == 0 and (record.best_ns < 0 or recompute < record.best_ns):
            record.best_ns = recompute
            record.best_length = length
            best[:length] = order[:length]
            if recompute == 0:
                break
        if new_peak < record.lean_peak_bytes:
            record.lean_peak_bytes = new_peak
            record.lean_length = length
            lean[:length] = order[:length]
    return length
