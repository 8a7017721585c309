"""Orders in slots, and what one change of them does to memory.

Runs are in slots, most of which are empty, so a run moves without shifting others. Each storage has
an interval of slots per run of its op: from that run to the last reader before the next one. What a
change does to memory follows from the storages that the op reads and writes alone, and only from
the ends of their intervals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autockpt_solvers.kernels.compiling import compiled
from autockpt_solvers.orders.tally import access_of, flat, numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autockpt_solvers.orders.facts import GraphFacts
    from autockpt_solvers.orders.tally import Numbers

SPREAD = 3  # slots per run
MOST_RUNS = 16  # of one op
EMPTY = -1

# Sums over an order in slots: bytes over the budget, time of all runs, number of runs; the budget.
SLOT_TOTALS = np.dtype(
    [
        ("over_bytes", np.int64),
        ("runtime_ns", np.int64),
        ("num_runs", np.int64),
        ("budget_bytes", np.int64),
    ]
)


class SlotGraph(NamedTuple):
    """A graph as arrays.

    Attributes:
        reads_at, reads, writes_at, writes: As in `Access`.
        readers_at: Per storage, where its readers begin.
        readers: Ops that read storages.
        size_bytes: Per storage.
        is_output: Per storage.
        producer: Per storage, its op.
        working_bytes: Per op; see `ComputeGraph`.
        runtime_ns: Per op.
        is_rerunnable: Per op.
    """

    reads_at: Numbers
    reads: Numbers
    writes_at: Numbers
    writes: Numbers
    readers_at: Numbers
    readers: Numbers
    size_bytes: Numbers
    is_output: Numbers
    producer: Numbers
    working_bytes: Numbers
    runtime_ns: Numbers
    is_rerunnable: Numbers


class Slots(NamedTuple):
    """An order in slots.

    Attributes:
        ops: Per slot, its op or `EMPTY`.
        live_bytes: Per slot, bytes of storages in memory.
        where: Per op, `MOST_RUNS` entries: the slots of its runs, ascending.
        num_runs: Per op, the number of its runs.
        totals: One record of `SLOT_TOTALS`.
    """

    ops: Numbers
    live_bytes: Numbers
    where: Numbers
    num_runs: Numbers
    totals: NDArray[Any]


class Intervals(NamedTuple):
    """Intervals of what an op reads and writes, a row of `MOST_RUNS` entries for each.

    Attributes:
        begins: First slots.
        ends: Last slots.
        nums: Per row, how many there are.
    """

    begins: Numbers
    ends: Numbers
    nums: Numbers


def slot_graph(facts: GraphFacts) -> SlotGraph:
    """A graph as arrays."""
    graph = facts.graph
    readers_at, readers = map(numbers, flat(graph.readers))
    return SlotGraph(
        **access_of(graph)._asdict(),
        readers_at=readers_at,
        readers=readers,
        size_bytes=numbers(facts.sizes),
        is_output=numbers(graph.is_output),
        producer=numbers(graph.producer),
        working_bytes=numbers(graph.working_bytes),
        runtime_ns=numbers(facts.runtime),
        is_rerunnable=numbers(facts.rerunnable),
    )


def empty_slots(graph: SlotGraph, longest: int, budget: int) -> Slots:
    """Slots for orders of at most about so many runs."""
    num_slots, num_ops = SPREAD * longest + 8, graph.runtime_ns.size
    sizes = (num_slots, num_slots, MOST_RUNS * num_ops, num_ops)
    ops, live, where, num_runs = (np.zeros(size, dtype=np.int64) for size in sizes)
    totals = np.array([(0, 0, 0, budget)], dtype=SLOT_TOTALS)
    return Slots(ops, live, where, num_runs, totals)


def empty_intervals(graph: SlotGraph) -> Intervals:
    """Rows for the intervals of any op."""
    num_rows = max(1, int((np.diff(graph.reads_at) + np.diff(graph.writes_at)).max(initial=0)))
    sizes = (MOST_RUNS * num_rows, MOST_RUNS * num_rows, num_rows)
    return Intervals(*(np.zeros(size, dtype=np.int64) for size in sizes))


@compiled
def intervals(storage: int, graph: SlotGraph, slots: Slots, found: Intervals, row: int) -> bool:
    """Find a storage's intervals, into a row; returns whether no reader comes before the first."""
    begins, ends, nums = found
    where, count = slots.where, slots.num_runs
    op = graph.producer[storage]
    num = count[op]
    base = row * MOST_RUNS
    for j in range(num):
        begins[base + j] = where[op * MOST_RUNS + j]
        ends[base + j] = begins[base + j]
    for k in range(graph.readers_at[storage], graph.readers_at[storage + 1]):
        reader = graph.readers[k]
        for i in range(count[reader]):
            slot = where[reader * MOST_RUNS + i]
            j = num - 1
            while j >= 0 and begins[base + j] > slot:
                j -= 1
            if j < 0:
                return False
            ends[base + j] = max(ends[base + j], slot)
    if graph.is_output[storage] and num > 0:
        ends[base] = slots.ops.size - 1
    nums[row] = num
    return True


@compiled
def _find(op: int, graph: SlotGraph, slots: Slots, found: Intervals) -> bool:
    """Find the intervals of all that an op reads and writes; whether every reader has one."""
    row = 0
    for k in range(graph.reads_at[op], graph.reads_at[op + 1]):
        if not intervals(graph.reads[k], graph, slots, found, row):
            return False
        row += 1
    for k in range(graph.writes_at[op], graph.writes_at[op + 1]):
        if not intervals(graph.writes[k], graph, slots, found, row):
            return False
        row += 1
    return True


@compiled
def place_run(op: int, source: int, target: int, slots: Slots) -> None:
    """Take a run of an op from a slot (none below 0) to another (likewise)."""
    where = slots.where
    base = op * MOST_RUNS
    num = slots.num_runs[op]
    if source >= 0:
        slots.ops[source] = EMPTY
        j = 0
        while where[base + j] != source:
            j += 1
        num -= 1
        while j < num:
            where[base + j] = where[base + j + 1]
            j += 1
    if target >= 0:
        j = num
        while j > 0 and where[base + j - 1] > target:
            where[base + j] = where[base + j - 1]
            j -= 1
        where[base + j] = target
        num += 1
        slots.ops[target] = op
    slots.num_runs[op] = num


@compiled
def _add(first: int, last: int, size: int, graph: SlotGraph, slots: Slots) -> None:
    """Add bytes to the slots from `first` to `last`."""
    totals, live = slots.totals[0], slots.live_bytes
    over = 0
    for slot in range(first, last + 1):
        op = slots.ops[slot]
        if op != EMPTY:
            here = live[slot] + graph.working_bytes[op] - totals.budget_bytes
            if here > 0:
                over -= here
            if here + size > 0:
                over += here + size
        live[slot] += size
    totals.over_bytes += over


@compiled
def _change_interval(
    begin: int, end: int, to_begin: int, to_end: int, size: int, graph: SlotGraph, slots: Slots
) -> None:
    """Change an interval into another; either may be empty."""
    for part in range(2):
        if to_begin > end or begin > to_end:
            first, last, grows = (to_begin, to_end, True) if part else (begin, end, False)
        elif part:
            first, last, grows = min(end, to_end) + 1, max(end, to_end), to_end > end
        else:
            first, last, grows = min(begin, to_begin), max(begin, to_begin) - 1, to_begin < begin
        _add(first, last, size if grows else -size, graph, slots)


@compiled
def count_change(
    op: int,
    source: int,
    target: int,
    graph: SlotGraph,
    slots: Slots,
    old: Intervals,
    new: Intervals,
) -> None:
    """Count what a run's change of slot does to memory and time; it has been placed already."""
    totals, live = slots.totals[0], slots.live_bytes
    if source >= 0:
        here = live[source] + graph.working_bytes[op] - totals.budget_bytes
        totals.over_bytes -= max(0, here)
    if target >= 0:
        slots.ops[target] = EMPTY
    num_reads = graph.reads_at[op + 1] - graph.reads_at[op]
    for row in range(num_reads + graph.writes_at[op + 1] - graph.writes_at[op]):
        if row < num_reads:
            storage = graph.reads[graph.reads_at[op] + row]
        else:
            storage = graph.writes[graph.writes_at[op] + row - num_reads]
        size = graph.size_bytes[storage]
        base = row * MOST_RUNS
        before, after = old.nums[row], new.nums[row]
        # If a run came or went, one interval of the longer row has no counterpart in the other.
        i = k = base
        while i < base + before or k < base + after:
            if after > before and new.begins[k] == target:
                _change_interval(0, -1, new.begins[k], new.ends[k], size, graph, slots)
                k += 1
            elif before > after and old.begins[i] == source:
                _change_interval(old.begins[i], old.ends[i], 0, -1, size, graph, slots)
                i += 1
            else:
                _change_interval(
                    old.begins[i], old.ends[i], new.begins[k], new.ends[k], size, graph, slots
                )
                i += 1
                k += 1
    if target >= 0:
        slots.ops[target] = op
        here = live[target] + graph.working_bytes[op] - totals.budget_bytes
        totals.over_bytes += max(0, here)
    if source < 0:
        totals.runtime_ns += graph.runtime_ns[op]
        totals.num_runs += 1
    elif target < 0:
        totals.runtime_ns -= graph.runtime_ns[op]
        totals.num_runs -= 1


@compiled
def move_run(
    op: int,
    source: int,
    target: int,
    graph: SlotGraph,
    slots: Slots,
    old: Intervals,
    new: Intervals,
) -> bool:
    """Take a run from a slot (none below 0) to an empty one (likewise), if the reads allow it.

    Args:
        op: The op.
        source: The slot that it leaves.
        target: The slot that it takes.
        graph: The graph.
        slots: The order.
        old: Scratch; with `new` exchanged, `count_change` undoes the change with it.
        new: Likewise.

    Returns:
        Whether it was done.
    """
    _find(op, graph, slots, old)
    place_run(op, source, target, slots)
    if not _find(op, graph, slots, new):
        place_run(op, target, source, slots)
        return False
    count_change(op, source, target, graph, slots, old, new)
    return True


@compiled
def fill_slots(
    order: Numbers, length: int, graph: SlotGraph, slots: Slots, scratch: Intervals
) -> None:
    """Put an order into the slots, evenly, and count everything anew."""
    ops, live, where, count, _ = slots
    totals = slots.totals[0]
    ops[:] = EMPTY
    live[:] = 0
    count[:] = 0
    totals.over_bytes = 0
    totals.runtime_ns = 0
    totals.num_runs = length
    for place in range(length):
        op = order[place]
        slot = (2 * place + 1) * ops.size // (2 * length)
        ops[slot] = op
        where[op * MOST_RUNS + count[op]] = slot
        count[op] += 1
        totals.runtime_ns += graph.runtime_ns[op]
    for storage in range(graph.size_bytes.size):
        intervals(storage, graph, slots, scratch, 0)
        for j in range(scratch.nums[0]):
            for slot in range(scratch.begins[j], scratch.ends[j] + 1):
                live[slot] += graph.size_bytes[storage]
    for slot in range(ops.size):
        op = ops[slot]
        if op != EMPTY:
            totals.over_bytes += max(0, live[slot] + graph.working_bytes[op] - totals.budget_bytes)


@compiled
def read_slots(order: Numbers, slots: Slots) -> int:
    """Read the order from the slots; returns its length."""
    length = 0
    for slot in range(slots.ops.size):
        if slots.ops[slot] != EMPTY:
            order[length] = slots.ops[slot]
            length += 1
    return length


@compiled
def peak_of(graph: SlotGraph, slots: Slots) -> int:
    """Most bytes at any run."""
    peak = 0
    for slot in range(slots.ops.size):
        if slots.ops[slot] != EMPTY:
            peak = max(peak, slots.live_bytes[slot] + graph.working_bytes[slots.ops[slot]])
    return int(peak)
