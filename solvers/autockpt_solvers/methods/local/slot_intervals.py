"""The slots in which a storage is live: for `slots`, whose head says what slots are.

An interval per run of the op that writes it, from that run to the last reader before the next one.
numba's cache of what calls this looks at the caller's file only: after a change here, save `slots`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.compiling import compiled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Arrays = tuple[NDArray[np.int64], ...]

MOST_RUNS = 16  # of an op


@compiled
def intervals(storage: int, graph: Arrays, state: Arrays, rows: Arrays, row: int) -> bool:
    """Finds a storage's intervals, into a row; whether no reader comes before the first."""
    begins, ends, nums = rows
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
                return False
            ends[base + j] = max(ends[base + j], slot)
    if is_output[storage] and num > 0:
        ends[base] = slots.size - 1
    nums[row] = num
    return True
