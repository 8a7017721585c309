"""The inner loop of `local` where no turn binds the ops: annealing over orders in slots.

It walks as `annealing` does, on graphs of one region without a backward pass, and takes far more
steps; runs are moved only to where the reads allow them.

Runs stand in slots of which most are empty, so a run moves without shifting the others, and what a
change does to memory is told by the storages that the op reads and writes alone: each has an
interval of slots per run of its op, from that run to the last reader before the next one, and
differs before and after the change at its ends only. On wide graphs that is some ten times less
work than judging the whole order.

As in `annealing`, everything runs as it stands, and faster where numba is installed. What is
compiled together mostly stays in one file: numba's cache looks at a function's own file only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.compiling import compiled, draw
from autockpt_solvers.methods.local.slot_intervals import MOST_RUNS, intervals

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autockpt_solvers.methods.local.slot_intervals import Arrays

SPREAD = 3  # slots per run
EMPTY = -1


@compiled
def _find(op: int, graph: Arrays, state: Arrays, old: Arrays) -> bool:
    """Finds the intervals of all that an op reads and writes; whether every reader has one."""
    reads_at, reads, writes_at, writes = graph[0], graph[1], graph[2], graph[3]
    row = 0
    for k in range(reads_at[op], reads_at[op + 1]):
        if not intervals(reads[k], graph, state, old, row):
            return False
        row += 1
    for k in range(writes_at[op], writes_at[op + 1]):
        if not intervals(writes[k], graph, state, old, row):
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
def _add(first: int, last: int, size: int, graph: Arrays, state: Arrays) -> None:
    """Adds bytes to the slots from `first` to `last`."""
    working = graph[7]
    slots, live, totals = state[0], state[1], state[4]
    over = 0
    for slot in range(first, last + 1):
        op = slots[slot]
        if op != EMPTY:
            here = live[slot] + working[op] - totals[3]
            if here > 0:
                over -= here
            if here + size > 0:
                over += here + size
        live[slot] += size
    totals[0] += over


@compiled
def _shift(
    begin: int, end: int, to_begin: int, to_end: int, size: int, graph: Arrays, state: Arrays
) -> None:
    """Changes an interval into another; either may be empty."""
    for part in range(2):
        if to_begin > end or begin > to_end:
            first, last, grows = (to_begin, to_end, True) if part else (begin, end, False)
        elif part:
            first, last, grows = min(end, to_end) + 1, max(end, to_end), to_end > end
        else:
            first, last, grows = min(begin, to_begin), max(begin, to_begin) - 1, to_begin < begin
        _add(first, last, size if grows else -size, graph, state)


@compiled
def count_change(
    op: int, source: int, target: int, graph: Arrays, state: Arrays, old: Arrays, new: Arrays
) -> None:
    """Counts what a run's change of slot does to memory and time; it has been placed already."""
    reads_at, reads, writes_at, writes = graph[0], graph[1], graph[2], graph[3]
    sizes, working, runtime = graph[6], graph[7], graph[8]
    slots, live, totals = state[0], state[1], state[4]
    if source >= 0:
        here = live[source] + working[op] - totals[3]
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
        # Where a run came or went, one interval of the longer row has no mate in the other.
        i = k = base
        while i < base + before or k < base + after:
            if after > before and new[0][k] == target:
                _shift(0, -1, new[0][k], new[1][k], size, graph, state)
                k += 1
            elif before > after and old[0][i] == source:
                _shift(old[0][i], old[1][i], 0, -1, size, graph, state)
                i += 1
            else:
                _shift(old[0][i], old[1][i], new[0][k], new[1][k], size, graph, state)
                i += 1
                k += 1
    if target >= 0:
        slots[target] = op
        here = live[target] + working[op] - totals[3]
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
    op: int, source: int, target: int, graph: Arrays, state: Arrays, old: Arrays, new: Arrays
) -> bool:
    """Takes a run from a slot (none below 0) to an empty one (likewise), if the reads allow it.

    Args:
        op: The op.
        source: The slot it leaves.
        target: The slot it takes.
        graph: What `local` makes of the graph, in the order unpacked here.
        state: Op per slot, bytes per slot, slots per op, number of runs per op, and totals: bytes
            over the room, time of all runs, number of runs, the room.
        old: Scratch; holds what `count_change` needs to take the change back.
        new: Likewise.

    Returns:
        Whether it was done.
    """
    _find(op, graph, state, old)
    place_run(op, source, target, state)
    if not _find(op, graph, state, new):
        place_run(op, target, source, state)
        return False
    count_change(op, source, target, graph, state, old, new)
    return True


@compiled
def vacate(slot: int, graph: Arrays, state: Arrays, old: Arrays, new: Arrays) -> int:
    """Makes a slot right before the run at `slot` empty, keeping the order; -1 if it cannot."""
    slots = state[0]
    if slots[slot] == EMPTY:
        return slot
    step = 1
    free = slot - 1
    while free >= 0 and slots[free] != EMPTY:
        free -= 1
    if free < 0:
        step = -1
        free = slot + 1
        while free < slots.size and slots[free] != EMPTY:
            free += 1
    if free == slots.size:
        return -1
    while free != (slot - 1 if step > 0 else slot):
        change(slots[free + step], free + step, free, graph, state, old, new)
        free += step
    return free


@compiled
def settle(
    order: NDArray[np.int64], length: int, graph: Arrays, state: Arrays, rows: Arrays
) -> None:
    """Puts an order into the slots, evenly, and counts everything anew."""
    sizes, working, runtime = graph[6], graph[7], graph[8]
    slots, live, where, count, totals = state
    slots[:] = EMPTY
    live[:] = 0
    count[:] = 0
    totals[:3] = 0
    for place in range(length):
        op = order[place]
        slot = (2 * place + 1) * slots.size // (2 * length)
        slots[slot] = op
        where[op * MOST_RUNS + count[op]] = slot
        count[op] += 1
        totals[1] += runtime[op]
    totals[2] = length
    for storage in range(sizes.size):
        intervals(storage, graph, state, rows, 0)
        for j in range(rows[2][0]):
            for slot in range(rows[0][j], rows[1][j] + 1):
                live[slot] += sizes[storage]
    for slot in range(slots.size):
        op = slots[slot]
        if op != EMPTY and live[slot] + working[op] > totals[3]:
            totals[0] += live[slot] + working[op] - totals[3]


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
    working = graph[7]
    slots, live = state[0], state[1]
    peak = 0
    for slot in range(slots.size):
        if slots[slot] != EMPTY:
            peak = max(peak, live[slot] + working[slots[slot]])
    return int(peak)


@compiled
def _propose(
    graph: Arrays, state: Arrays, old: Arrays, new: Arrays, seed: NDArray[np.int64], once: int
) -> tuple[int, int, int]:
    """Draws a change: op, slot it leaves, slot it takes; both below 0 where there is none."""
    reads_at, reads, rerunnable, producer = graph[0], graph[1], graph[10], graph[11]
    slots, where, count, totals = state[0], state[2], state[3], state[4]
    slot = draw(seed, slots.size)
    kind = draw(seed, 16)
    if 3 <= kind < 6:  # drop a run
        if totals[2] == once:
            return 0, -1, -1
        while slots[slot] == EMPTY or count[slots[slot]] < 2:
            slot = slot + 1 if slot + 1 < slots.size else 0
        return slots[slot], slot, -1
    while slots[slot] == EMPTY:
        slot = draw(seed, slots.size)
    op = slots[slot]
    if kind < 3:  # make a value again for one reader
        num = reads_at[op + 1] - reads_at[op]
        if num == 0 or 2 * (totals[2] + 1) > slots.size:
            return 0, -1, -1
        made = producer[reads[reads_at[op] + draw(seed, num)]]
        if not rerunnable[made] or count[made] == MOST_RUNS:
            return 0, -1, -1
        return made, -1, vacate(slot, graph, state, old, new)
    # move a run
    index = 0
    while where[op * MOST_RUNS + index] != slot:
        index += 1
    first, last = _window(op, index, graph, state)
    if last <= first:
        return 0, -1, -1
    reach = 1 + draw(seed, 1 + draw(seed, slots.size))
    target = slot + reach if draw(seed, 2) else slot - reach
    if target < first or target > last:
        target = first + draw(seed, last - first + 1)
    target = vacate(target, graph, state, old, new)
    if target < 0:
        return 0, -1, -1
    # Making room may have moved the run itself by a slot.
    return op, where[op * MOST_RUNS + index], target


@compiled
def _window(op: int, index: int, graph: Arrays, state: Arrays) -> tuple[int, int]:
    """First and last slot to which the reads allow a run of an op to move."""
    reads_at, reads, writes_at, writes = graph[0], graph[1], graph[2], graph[3]
    readers_at, readers, producer = graph[4], graph[5], graph[11]
    slots, where, count = state[0], state[2], state[3]
    first = 0
    last = slots.size - 1
    for k in range(reads_at[op], reads_at[op + 1]):
        first = max(first, where[producer[reads[k]] * MOST_RUNS] + 1)
    if index == 0:
        for k in range(writes_at[op], writes_at[op + 1]):
            for i in range(readers_at[writes[k]], readers_at[writes[k] + 1]):
                if count[readers[i]] > 0:
                    last = min(last, where[readers[i] * MOST_RUNS] - 1)
    return first, last


@compiled
def walk(
    graph: Arrays,
    state: Arrays,
    old: Arrays,
    new: Arrays,
    seed: NDArray[np.int64],
    best: NDArray[np.int64],
    lean: NDArray[np.int64],
    found: NDArray[np.int64],
    steps: tuple[int, int, int],
    scale: tuple[float, float, float, float, float, float],
) -> None:
    """Walks as `annealing.anneal` does; see there for the arguments.

    The leanest order is looked for among those with the fewest bytes over the room, of which
    `found` keeps the number in its last place.
    """
    count, totals = state[3], state[4]
    once = 0
    base = 0
    for op in range(count.size):
        once += count[op] > 0
        base += graph[8][op] * (count[op] > 0)
    first, stop, total = steps
    unit_time, unit_bytes, hot, cold, light, heavy = scale
    temperature = hot
    weight = light
    for step in range(first, stop):
        if step % 64 == 0 or step == first:
            share = step / total
            temperature = hot * (cold / hot) ** share
            weight = light * (heavy / light) ** share
        op, source, target = _propose(graph, state, old, new, seed, once)
        if source < 0 and target < 0:
            continue
        over, cost = totals[0], totals[1]
        if not change(op, source, target, graph, state, old, new):
            continue
        worse = (totals[1] - cost) / unit_time + weight * (totals[0] - over) / unit_bytes
        if worse > 0 and (
            worse >= 20 * temperature
            or draw(seed, 1 << 30) >= math.exp(-worse / temperature) * (1 << 30)
        ):
            place_run(op, target, source, state)
            count_change(op, target, source, graph, state, new, old)
            continue
        if totals[0] == 0 and (found[0] < 0 or totals[1] - base < found[0]):
            found[0] = totals[1] - base
            found[1] = read(best, state)
            if found[0] == 0:
                break
        if totals[0] < found[4]:
            found[4] = totals[0]
            peak = peak_of(graph, state)
            if peak < found[2]:
                found[2] = peak
                found[3] = read(lean, state)
