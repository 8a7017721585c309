"""The inner loop of `local` where no turn binds the ops: annealing over orders in slots.

It walks as `annealing` does, on graphs of one region without a backward pass, and takes far more
steps, as a step costs what the moved run touches (see `slots`). Runs are moved to where the reads
allow them only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autockpt_solvers.methods.annealing import draw
from autockpt_solvers.methods.compiling import compiled
from autockpt_solvers.methods.slots import (
    EMPTY,
    MOST_RUNS,
    change,
    count_change,
    peak_of,
    place_run,
    read,
    vacate,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Arrays = tuple[NDArray[np.int64], ...]


@compiled
def _propose(
    graph: Arrays,
    state: Arrays,
    old: Arrays,
    new: Arrays,
    seed: NDArray[np.int64],
    once: int,
    room: int,
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
        return made, -1, vacate(slot, graph, state, old, new, room)
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
    target = vacate(target, graph, state, old, new, room)
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
    room: int,
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
        op, source, target = _propose(graph, state, old, new, seed, once, room)
        if source < 0 and target < 0:
            continue
        over, cost = totals[0], totals[1]
        if not change(op, source, target, graph, state, old, new, room):
            continue
        worse = (totals[1] - cost) / unit_time + weight * (totals[0] - over) / unit_bytes
        if worse > 0 and (
            worse >= 20 * temperature
            or draw(seed, 1 << 30) >= math.exp(-worse / temperature) * (1 << 30)
        ):
            place_run(op, target, source, state)
            count_change(op, target, source, graph, state, new, old, room)
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
