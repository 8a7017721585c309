"""Orders in slots: what moving one run does to memory, without looking at all the others.

Runs stand in slots of which most are empty, so a run moves without shifting the others, and what a
change does to memory is told by the storages that the op reads and writes alone: each has an
interval of slots per run of its op, from that run to the last reader before the next one, and
differs before and after the change at its ends only. On wide graphs that is some ten times less
work than judging the whole order.

As in `annealing`, everything runs as it stands, and faster where numba is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.methods.compiling import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = tuple[NDArray[np.int64], ...]

MOST_RUNS = 6  # of an op
SPREAD = 3  # slots per run
EMPTY = -1


@compiled
def _intervals(
    storage: int,
    graph: Arrays,
    state: Arrays,
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    row: int,
) -> int:
    """Finds a storage's intervals, into a row of `begins` and `ends`.

    Returns:
        Their number; -1 where a reader comes before the first.
    """
    readers_at, readers, is_output, producer = graph[4], graph[5], graph[9], graph[11]
    slots, where, count = state[0], state[2], state[3]
    op = producer[storage]
    num = count[op]
    base = row * MOST_RUNS
    for j in range(num):
        begins[base + j] = where[op * MOST_RUNS + j]
        ends[base + j] = begins[base + j]
    for k in range(readers_at[storage], readers_at[storage + 1]):
        reader = readers[k]
        for i in range(count[reader]):
            slot = where[reader * MOST_RUNS + i]
            j = num - 1
            while j >= 0 and begins[base + j] > slot:
                j -= 1
            if j < 0:
                return -1
            ends[base + j] = max(ends[base + j], slot)
    if is_output[storage] and num > 0:
        ends[base] = slots.size - 1
    return int(num)


@compiled
def _find(op: int, graph: Arrays, state: Arrays, old: Arrays) -> bool:
    """Finds the intervals of all that an op reads and writes; whether every reader has one."""
    reads_at, reads, writes_at, writes = graph[0], graph[1], graph[2], graph[3]
    begins, ends, nums = old
    row = 0
    for k in range(reads_at[op], reads_at[op + 1]):
        nums[row] = _intervals(reads[k], graph, state, begins, ends, row)
        if nums[row] < 0:
            return False
        row += 1
    for k in range(writes_at[op], writes_at[op + 1]):
        nums[row] = _intervals(writes[k], graph, state, begins, ends, row)
        if nums[row] < 0:
            return False
        row += 1
    return True


@compiled
def place_run(op: int, source: int, target: int, state: Arrays) -> None:
    """Takes a run of an op from a slot (none below 0) to another (likewise)."""
    slots, where, count = state[0], state[2], state[3]
    base = op * MOST_RUNS
    num = count[op]
    if source >= 0:
        slots[source] = EMPTY
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
        slots[target] = op
    count[op] = num


@compiled
def _add(first: int, last: int, size: int, graph: Arrays, state: Arrays, room: int) -> None:
    """Adds bytes to the slots from `first` to `last`."""
    workspace = graph[7]
    slots, live, totals = state[0], state[1], state[4]
    over = 0
    for slot in range(first, last + 1):
        op = slots[slot]
        if op != EMPTY:
            here = live[slot] + workspace[op] - room
            if here > 0:
                over -= here
            if here + size > 0:
                over += here + size
        live[slot] += size
    totals[0] += over


@compiled
def _shift(
    begin: int,
    end: int,
    to_begin: int,
    to_end: int,
    size: int,
    graph: Arrays,
    state: Arrays,
    room: int,
) -> None:
    """Changes an interval into another."""
    if to_begin > end or begin > to_end:
        _add(begin, end, -size, graph, state, room)
        _add(to_begin, to_end, size, graph, state, room)
        return
    if to_begin < begin:
        _add(to_begin, begin - 1, size, graph, state, room)
    elif to_begin > begin:
        _add(begin, to_begin - 1, -size, graph, state, room)
    if to_end > end:
        _add(end + 1, to_end, size, graph, state, room)
    elif to_end < end:
        _add(to_end + 1, end, -size, graph, state, room)


@compiled
def count_change(
    op: int,
    source: int,
    target: int,
    graph: Arrays,
    state: Arrays,
    old: Arrays,
    new: Arrays,
    room: int,
) -> None:
    """Counts what a run's change of slot does to memory and time; it has been placed already."""
    reads_at, reads, writes_at, writes = graph[0], graph[1], graph[2], graph[3]
    sizes, workspace, runtime = graph[6], graph[7], graph[8]
    slots, live, totals = state[0], state[1], state[4]
    if source >= 0:
        here = live[source] + workspace[op] - room
        if here > 0:
            totals[0] -= here
    if target >= 0:
        slots[target] = EMPTY
    num_reads = reads_at[op + 1] - reads_at[op]
    for row in range(num_reads + writes_at[op + 1] - writes_at[op]):
        if row < num_reads:
            storage = reads[reads_at[op] + row]
        else:
            storage = writes[writes_at[op] + row - num_reads]
        size = sizes[storage]
        base = row * MOST_RUNS
        before, after = old[2][row], new[2][row]
        # Where a run came or went, the intervals before it keep their places.
        odd = -1
        if after > before:
            odd = 0
            while new[0][base + odd] != target:
                odd += 1
            _add(new[0][base + odd], new[1][base + odd], size, graph, state, room)
        elif before > after:
            odd = 0
            while old[0][base + odd] != source:
                odd += 1
            _add(old[0][base + odd], old[1][base + odd], -size, graph, state, room)
        for j in range(min(before, after)):
            i = base + j + (before > after and j >= odd)
            k = base + j + (after > before and j >= odd)
            _shift(old[0][i], old[1][i], new[0][k], new[1][k], size, graph, state, room)
    if target >= 0:
        slots[target] = op
        here = live[target] + workspace[op] - room
        if here > 0:
            totals[0] += here
    if source < 0:
        totals[1] += runtime[op]
        totals[2] += 1
    elif target < 0:
        totals[1] -= runtime[op]
        totals[2] -= 1


@compiled
def change(
    op: int,
    source: int,
    target: int,
    graph: Arrays,
    state: Arrays,
    old: Arrays,
    new: Arrays,
    room: int,
) -> bool:
    """Takes a run from a slot (none below 0) to an empty one (likewise), if the reads allow it.

    Args:
        op: The op.
        source: The slot it leaves.
        target: The slot it takes.
        graph: What `local` makes of the graph, in the order unpacked here.
        state: Op per slot, bytes per slot, slots per op, number of runs per op, and totals: bytes
            over the room, time of all runs, number of runs.
        old: Scratch; holds what `count_change` needs to take the change back.
        new: Likewise.
        room: Bytes to stay under.

    Returns:
        Whether it was done.
    """
    _find(op, graph, state, old)
    place_run(op, source, target, state)
    if not _find(op, graph, state, new):
        place_run(op, target, source, state)
        return False
    count_change(op, source, target, graph, state, old, new, room)
    return True


@compiled
def vacate(slot: int, graph: Arrays, state: Arrays, old: Arrays, new: Arrays, room: int) -> int:
    """Makes a slot right before the run at `slot` empty, keeping the order; -1 if it cannot."""
    slots = state[0]
    if slots[slot] == EMPTY:
        return slot
    free = slot - 1
    while free >= 0 and slots[free] != EMPTY:
        free -= 1
    if free >= 0:
        for k in range(free, slot - 1):
            change(slots[k + 1], k + 1, k, graph, state, old, new, room)
        return slot - 1
    free = slot + 1
    while free < slots.size and slots[free] != EMPTY:
        free += 1
    if free == slots.size:
        return -1
    for k in range(free, slot, -1):
        change(slots[k - 1], k - 1, k, graph, state, old, new, room)
    return slot


@compiled
def settle(
    order: NDArray[np.int64], length: int, graph: Arrays, state: Arrays, scratch: Arrays, room: int
) -> None:
    """Puts an order into the slots, evenly, and counts everything anew."""
    sizes, workspace, runtime = graph[6], graph[7], graph[8]
    slots, live, where, count, totals = state
    begins, ends, _ = scratch
    slots[:] = EMPTY
    live[:] = 0
    count[:] = 0
    totals[:] = 0
    for place in range(length):
        op = order[place]
        slot = (2 * place + 1) * slots.size // (2 * length)
        slots[slot] = op
        where[op * MOST_RUNS + count[op]] = slot
        count[op] += 1
        totals[1] += runtime[op]
    totals[2] = length
    for storage in range(sizes.size):
        num = _intervals(storage, graph, state, begins, ends, 0)
        for j in range(num):
            for slot in range(begins[j], ends[j] + 1):
                live[slot] += sizes[storage]
    for slot in range(slots.size):
        op = slots[slot]
        if op != EMPTY and live[slot] + workspace[op] > room:
            totals[0] += live[slot] + workspace[op] - room


@compiled
def read(order: NDArray[np.int64], state: Arrays) -> int:
    """Reads the order from the slots; gives its length."""
    slots = state[0]
    length = 0
    for slot in range(slots.size):
        if slots[slot] != EMPTY:
            order[length] = slots[slot]
            length += 1
    return length


@compiled
def peak_of(graph: Arrays, state: Arrays) -> int:
    """Most bytes at any run."""
    workspace = graph[7]
    slots, live = state[0], state[1]
    peak = 0
    for slot in range(slots.size):
        if slots[slot] != EMPTY:
            peak = max(peak, live[slot] + workspace[slots[slot]])
    return int(peak)
