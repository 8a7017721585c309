"""The inner loop of `local`: simulated annealing over compute orders, on plain arrays.

Everything here runs as it stands; where numba is installed it is compiled, and some hundred times
faster. Random numbers come from a generator of its own, so both ways walk the same path.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.compiling import compiled, draw

if TYPE_CHECKING:
    from numpy.typing import NDArray


@compiled
def evaluate(  # noqa: C901 - one pass over the order, with all the rules of the simulator
    order: NDArray[np.int64],
    length: int,
    graph: tuple[NDArray[np.int64], ...],
    work: tuple[NDArray[np.int64], ...],
    room: int,
) -> tuple[int, int, int]:
    """Bytes over `room`, summed over the runs; the peak; the recompute time.

    Args:
        order: Ops in the order they run; the first `length` count.
        length: Number of runs.
        graph: What `local` makes of the graph, in the order unpacked below.
        work: Scratch: last use, birth, number of runs, change of bytes, backward ops per region.
        room: Bytes to stay under.

    Returns:
        The three; -1 first when the order would not run.
    """
    reads_at, reads, writes_at, writes, sizes, working, runtime = graph[:7]
    is_output, required, is_backward, region, backward_in = graph[7:12]
    last, born, runs, change, left = work
    last[:] = -1
    born[:] = -1
    runs[:] = 0
    change[: length + 2] = 0
    left[:] = backward_in
    current = left.size - 1
    waiting = 0
    for op in range(required.size):
        waiting += required[op]
    reached = 0
    last_backward = -1
    recompute = 0
    for place in range(length):
        op = order[place]
        if is_backward[op]:
            if waiting > 0 or op <= last_backward:
                return -1, 0, 0
            last_backward = op
            left[region[op]] -= 1
        elif waiting > 0:
            if region[op] < reached:
                return -1, 0, 0
            reached = region[op]
        else:
            while current >= 0 and left[current] == 0:
                current -= 1
            if region[op] != current:
                return -1, 0, 0
        for k in range(reads_at[op], reads_at[op + 1]):
            storage = reads[k]
            if born[storage] < 0:
                return -1, 0, 0
            last[storage] = place
        for k in range(writes_at[op], writes_at[op + 1]):
            storage = writes[k]
            if born[storage] >= 0:
                change[last[storage] + 1] -= sizes[storage]
            born[storage] = place
            last[storage] = place
            change[place] += sizes[storage]
        if runs[op] > 0:
            recompute += runtime[op]
        elif required[op]:
            waiting -= 1
        runs[op] += 1
    for storage in range(sizes.size):
        if born[storage] >= 0 and not is_output[storage]:
            change[last[storage] + 1] -= sizes[storage]
    live = 0
    peak = 0
    over = 0
    for place in range(length):
        live += change[place]
        here = live + working[order[place]]
        if here > peak:
            peak = here
        if here > room:
            over += here - room
    return over, peak, recompute


@compiled
def _shift(order: NDArray[np.int64], length: int, removed: int, inserted: int, op: int) -> None:
    """Takes the run at `removed` out (none below 0) and puts `op` in at `inserted` (likewise)."""
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


@compiled
def anneal(  # noqa: C901 - one loop, so that it compiles to one
    order: NDArray[np.int64],
    length: int,
    graph: tuple[NDArray[np.int64], ...],
    work: tuple[NDArray[np.int64], ...],
    state: NDArray[np.int64],
    best: NDArray[np.int64],
    lean: NDArray[np.int64],
    found: NDArray[np.int64],
    room: int,
    steps: tuple[int, int, int],
    scale: tuple[float, float, float, float, float, float],
) -> int:
    """Walks from `order` through changed orders, taking worse ones ever more rarely.

    A change moves one run to another place, makes a value again right before one of its readers,
    or drops a run that is not the only one.

    Args:
        order: Where to start; changed in place. Its size bounds the number of runs.
        length: Number of runs in it.
        graph: As in `evaluate`.
        work: As in `evaluate`.
        state: State of the random numbers.
        best: Gains the cheapest order that fits.
        lean: Gains the order with the lowest peak.
        found: Recompute time and length of `best` (-1 when none), peak and length of `lean`.
        room: Bytes to stay under.
        steps: First step, step to stop before, and number of steps of the whole walk.
        scale: Time and bytes that count as one, first and last temperature, first and last weight
            of the bytes.

    Returns:
        The length of `order`.
    """
    reads_at, reads = graph[0], graph[1]
    rerunnable, producer, is_backward = graph[12], graph[13], graph[9]
    copies = np.zeros(rerunnable.size, dtype=np.int64)
    extra = length
    for k in range(length):
        extra -= copies[order[k]] == 0
        copies[order[k]] += 1
    first, stop, total = steps
    unit_time, unit_bytes, hot, cold, light, heavy = scale
    over, peak, recompute = evaluate(order, length, graph, work, room)
    temperature = hot
    weight = light
    for step in range(first, stop):
        if step % 64 == 0 or step == first:
            share = step / total
            temperature = hot * (cold / hot) ** share
            weight = light * (heavy / light) ** share
            over, peak, recompute = evaluate(order, length, graph, work, room)
        kind = draw(state, 16)
        inserted = -1
        removed = -1
        op = 0
        if kind < 3:  # make a value again for one reader
            if length == order.size:
                continue
            place = draw(state, length)
            reader = order[place]
            count = reads_at[reader + 1] - reads_at[reader]
            if count == 0:
                continue
            op = producer[reads[reads_at[reader] + draw(state, count)]]
            if not rerunnable[op] or is_backward[op]:
                continue
            inserted = place
        elif kind < 6:  # drop a run
            if extra == 0:
                continue
            start = draw(state, length)
            for k in range(length):
                place = (start + k) % length
                if copies[order[place]] > 1:
                    removed = place
                    break
            if removed < 0:
                continue
            op = order[removed]
        else:  # move a run
            removed = draw(state, length)
            op = order[removed]
            reach = 1 + draw(state, 1 + draw(state, length))
            inserted = removed + reach if draw(state, 2) else removed - reach
            if inserted < 0 or inserted >= length:
                continue
        _shift(order, length, removed, inserted, op)
        new_length = length + (inserted >= 0) - (removed >= 0)
        new_over, new_peak, new_recompute = evaluate(order, new_length, graph, work, room)
        worse = (new_recompute - recompute) / unit_time + weight * (new_over - over) / unit_bytes
        accepted = new_over >= 0 and (
            worse <= 0
            or (
                worse < 20 * temperature
                and draw(state, 1 << 30) < math.exp(-worse / temperature) * (1 << 30)
            )
        )
        if not accepted:
            _shift(order, new_length, inserted, removed, op)
            continue
        change = (inserted >= 0) - (removed >= 0)
        copies[op] += change
        extra += change
        length, over, peak, recompute = new_length, new_over, new_peak, new_recompute
        if over == 0 and (found[0] < 0 or recompute < found[0]):
            found[0] = recompute
            found[1] = length
            best[:length] = order[:length]
            if recompute == 0:
                break
        if peak < found[2]:
            found[2] = peak
            found[3] = length
            lean[:length] = order[:length]
    return length
