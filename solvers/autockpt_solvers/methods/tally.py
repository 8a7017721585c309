"""Peak and recompute time of a compute order, counted as `with_frees` and `simulate` would."""

from __future__ import annotations

from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import numpy as np

from autockpt_solvers.methods.compiling import IS_COMPILED, compiled

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autockpt_solvers.graph import ComputeGraph


class Tally:
    """A graph as arrays, and scratch; plain lists where nothing is compiled."""

    def __init__(self, graph: ComputeGraph) -> None:
        ops, storages = graph.ops, graph.storages
        reads_at, reads = map(_array, flat([op.reads for op in ops]))
        writes_at, writes = map(_array, flat([op.writes for op in ops]))
        self.graph = (
            reads_at,
            reads,
            writes_at,
            writes,
            _array(storage.size_bytes for storage in storages),
            _array(graph.working_bytes),
            _array(op.runtime_ns for op in ops),
            _array(graph.is_output),
        )
        self.scratch = (
            _array(0 for _ in storages),
            _array(0 for _ in storages),
            _array(0 for _ in ops),
        )

    def __call__(self, order: Sequence[int]) -> tuple[int, int]:
        """Peak bytes and recompute time of an order that is known to be valid, frees included."""
        if IS_COMPILED:
            ran: Any = np.array(order, dtype=np.int64)
            change: Any = np.zeros(len(order) + 1, dtype=np.int64)
        else:
            ran, change = order, [0] * (len(order) + 1)
        peak, recompute = _count(ran, *self.graph, *self.scratch, change)
        return int(peak), int(recompute)


def _array(values: Iterable[int]) -> Any:
    numbers = [int(value) for value in values]
    return np.array(numbers, dtype=np.int64) if IS_COMPILED else numbers


def flat(rows: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Where each row starts, and all rows one after the other."""
    return list(accumulate((len(row) for row in rows), initial=0)), list(chain(*rows))


@compiled
def _count(
    order: Any,
    reads_at: Any,
    reads: Any,
    writes_at: Any,
    writes: Any,
    sizes: Any,
    working: Any,
    runtime: Any,
    is_output: Any,
    last: Any,
    born: Any,
    seen: Any,
    change: Any,
) -> tuple[int, int]:
    for storage in range(len(sizes)):
        last[storage] = 0
        born[storage] = -1
    for op in range(len(runtime)):
        seen[op] = 0
    recompute = 0
    for place in range(len(order)):
        op = order[place]
        for k in range(reads_at[op], reads_at[op + 1]):
            last[reads[k]] = place
        for k in range(writes_at[op], writes_at[op + 1]):
            storage = writes[k]
            if born[storage] >= 0:
                change[last[storage] + 1] -= sizes[storage]
            born[storage] = place
            last[storage] = place
            change[place] += sizes[storage]
        if seen[op]:
            recompute += runtime[op]
        seen[op] = 1
    for storage in range(len(sizes)):
        if born[storage] >= 0 and not is_output[storage]:
            change[last[storage] + 1] -= sizes[storage]
    live = 0
    peak = 0
    for place in range(len(order)):
        live += change[place]
        peak = max(peak, live + working[order[place]])
    return peak, recompute
