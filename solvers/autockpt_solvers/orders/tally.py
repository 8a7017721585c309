"""What is done to one graph many times, on plain arrays.

`Tally`: peak and recompute time of a compute order, counted as `with_frees` and `simulate` would.
`Tail`: the backward ops and, before each, the forward ops that make what it misses.
"""

from __future__ import annotations

from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import numpy as np

from autockpt_solvers.compiling import IS_COMPILED, compiled

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autockpt_solvers.graph import ComputeGraph


class Tally:
    """A graph as arrays, and scratch; plain lists where nothing is compiled."""

    def __init__(self, graph: ComputeGraph) -> None:
        ops, storages = graph.ops, graph.storages
        self.graph = (
            *_reads_and_writes(graph),
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
        peak, recompute, _ = self._counted(order)
        return peak, recompute

    def live_bytes(self, order: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The bytes in use during each run of an order that is known to be valid."""
        _, _, live = self._counted(order)
        return np.array(live[: len(order)], dtype=np.int64)

    def _counted(self, order: Sequence[int]) -> tuple[int, int, Any]:
        live = _zeros(len(order) + 1)
        ran: Any = np.array(order, dtype=np.int64) if IS_COMPILED else order
        peak, recompute = _count(ran, *self.graph, *self.scratch, live)
        return int(peak), int(recompute), live


class Tail:
    """A graph as arrays, and scratch; plain lists where nothing is compiled."""

    def __init__(self, graph: ComputeGraph, may_run: Iterable[bool]) -> None:
        ops, tables = graph.ops, _reads_and_writes(graph)
        self.graph = (
            *tables,
            _array(graph.producer),
            _array(op.region for op in ops),
            _array(may_run),
        )
        self.num_storages = len(graph.storages)
        # Every run of a forward op brings a storage that was missing.
        sizes = (len(ops), len(tables[1]) + 1, self.num_storages, len(ops) + self.num_storages)
        self.scratch = tuple(_array(0 for _ in range(size)) for size in sizes)

    def __call__(self, at_hand: Iterable[int]) -> tuple[list[int], list[int]]:
        """What runs after the turn, when these storages are at hand, made again right before use.

        Returns:
            The order, and what must be at hand besides, because it cannot be made again.
        """
        is_there = _zeros(self.num_storages)
        for storage in at_hand:
            is_there[storage] = 1
        length, num_added = _follow(is_there, *self.graph, *self.scratch)
        _, _, added, order = self.scratch
        if IS_COMPILED:
            return order[:length].tolist(), added[:num_added].tolist()
        return order[:length], added[:num_added]


def _reads_and_writes(graph: ComputeGraph) -> tuple[Any, Any, Any, Any]:
    """Where each op's reads begin, the reads, and the same of its writes."""
    reads_at, reads = map(_array, flat([op.reads for op in graph.ops]))
    writes_at, writes = map(_array, flat([op.writes for op in graph.ops]))
    return reads_at, reads, writes_at, writes


def _array(values: Iterable[int]) -> Any:
    numbers = [int(value) for value in values]
    return np.array(numbers, dtype=np.int64) if IS_COMPILED else numbers


def _zeros(size: int) -> Any:
    return np.zeros(size, dtype=np.int64) if IS_COMPILED else [0] * size


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
    live: Any,
) -> tuple[int, int]:
    """Peak and recompute time; `live`, zeros at first, holds the bytes per place at last."""
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
                live[last[storage] + 1] -= sizes[storage]
            born[storage] = place
            last[storage] = place
            live[place] += sizes[storage]
        if seen[op]:
            recompute += runtime[op]
        seen[op] = 1
    for storage in range(len(sizes)):
        if born[storage] >= 0 and not is_output[storage]:
            live[last[storage] + 1] -= sizes[storage]
    standing = 0
    peak = 0
    for place in range(len(order)):
        standing += live[place]
        live[place] = standing + working[order[place]]
        peak = max(peak, live[place])
    return peak, recompute


@compiled
def _follow(
    at_hand: Any,
    reads_at: Any,
    reads: Any,
    writes_at: Any,
    writes: Any,
    producer: Any,
    region: Any,
    may_run: Any,
    marked: Any,
    stack: Any,
    added: Any,
    order: Any,
) -> tuple[int, int]:
    num_forward = len(may_run)
    length = 0
    num_added = 0
    for stage in range(num_forward, len(region)):
        top = 0
        for k in range(reads_at[stage], reads_at[stage + 1]):
            if producer[reads[k]] < num_forward and not at_hand[reads[k]]:
                stack[top] = reads[k]
                top += 1
        first = num_forward
        last = -1
        while top > 0:
            top -= 1
            storage = stack[top]
            op = producer[storage]
            if at_hand[storage] or marked[op]:
                continue
            if not may_run[op] or region[op] != region[stage]:
                at_hand[storage] = 1
                added[num_added] = storage
                num_added += 1
                continue
            marked[op] = 1
            first = min(first, op)
            last = max(last, op)
            for k in range(reads_at[op], reads_at[op + 1]):
                if not at_hand[reads[k]]:
                    stack[top] = reads[k]
                    top += 1
        for op in range(first, last + 1):
            if marked[op]:
                marked[op] = 0
                order[length] = op
                length += 1
                for k in range(writes_at[op], writes_at[op + 1]):
                    at_hand[writes[k]] = 1
        order[length] = stage
        length += 1
    return length, num_added
