"""What is computed many times for one graph, compiled.

`Tally`: peak and recompute time of a compute order, counted as `with_frees` and `simulate` do.
`Tail`: the backward ops and, before each, the forward ops that recompute what it misses.
"""

from __future__ import annotations

from itertools import accumulate, chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from autockpt_solvers.kernels.compiling import compiled

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from autockpt_solvers.graph import ComputeGraph

    Numbers = NDArray[np.int64]


def flat(rows: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Where each row starts, and all rows one after the other."""
    return list(accumulate((len(row) for row in rows), initial=0)), list(chain(*rows))


def numbers(values: Iterable[int]) -> Numbers:
    """Values as an array of 64-bit integers."""
    return np.array([int(value) for value in values], dtype=np.int64)


class Access(NamedTuple):
    """What each op reads and writes.

    Attributes:
        reads_at: Per op, where its reads begin, and one more entry for the end.
        reads: Storages that ops read.
        writes_at: Per op, where its writes begin, and one more entry for the end.
        writes: Storages that ops write.
    """

    reads_at: Numbers
    reads: Numbers
    writes_at: Numbers
    writes: Numbers


def access_of(graph: ComputeGraph) -> Access:
    """What each op of a graph reads and writes."""
    reads = map(numbers, flat([op.reads for op in graph.ops]))
    writes = map(numbers, flat([op.writes for op in graph.ops]))
    return Access(*reads, *writes)


class _Costs(NamedTuple):
    """What storages and ops cost.

    Attributes:
        size_bytes: Per storage.
        is_output: Per storage.
        working_bytes: Per op; see `ComputeGraph`.
        runtime_ns: Per op.
    """

    size_bytes: Numbers
    is_output: Numbers
    working_bytes: Numbers
    runtime_ns: Numbers


class _TallyScratch(NamedTuple):
    """Per storage, the places of its last use and of its writer; per op, whether it has run."""

    last: Numbers
    born: Numbers
    has_run: Numbers


class Tally:
    """Evaluates compute orders of one graph."""

    def __init__(self, graph: ComputeGraph) -> None:
        self._access = access_of(graph)
        self._costs = _Costs(
            size_bytes=numbers(storage.size_bytes for storage in graph.storages),
            is_output=numbers(graph.is_output),
            working_bytes=numbers(graph.working_bytes),
            runtime_ns=numbers(op.runtime_ns for op in graph.ops),
        )
        num_storages, num_ops = len(graph.storages), len(graph.ops)
        self._scratch = _TallyScratch(
            *(np.zeros(size, dtype=np.int64) for size in (num_storages, num_storages, num_ops))
        )

    def __call__(self, order: Sequence[int]) -> tuple[int, int]:
        """Peak bytes and recompute time of an order that is known to be valid, frees included."""
        peak, recompute, _ = self._count(order)
        return peak, recompute

    def live_bytes(self, order: Sequence[int]) -> Numbers:
        """Bytes in use during each run of an order that is known to be valid."""
        _, _, live = self._count(order)
        return live[: len(order)]

    def _count(self, order: Sequence[int]) -> tuple[int, int, Numbers]:
        live = np.zeros(len(order) + 1, dtype=np.int64)
        ran = np.array(order, dtype=np.int64)
        peak, recompute = _count(ran, self._access, self._costs, self._scratch, live)
        return int(peak), int(recompute), live


class _TailGraph(NamedTuple):
    """What `_follow` needs of a graph, beside what its ops read and write.

    Attributes:
        producer: Per storage, its op.
        region: Per op.
        may_run: Per forward op, whether it may run in the backward.
    """

    producer: Numbers
    region: Numbers
    may_run: Numbers


class _TailScratch(NamedTuple):
    """Marks per op, a stack of storages, storages added, and the order that is made."""

    marked: Numbers
    stack: Numbers
    added: Numbers
    order: Numbers


class Tail:
    """Makes the part of an order that follows the forward pass."""

    def __init__(self, graph: ComputeGraph, may_run: Iterable[bool]) -> None:
        self._access = access_of(graph)
        self._graph = _TailGraph(
            producer=numbers(graph.producer),
            region=numbers(op.region for op in graph.ops),
            may_run=numbers(may_run),
        )
        self._num_storages = len(graph.storages)
        num_ops = len(graph.ops)
        # Every run of a forward op writes a storage that was missing.
        sizes = (
            num_ops,
            self._access.reads.size + 1,
            self._num_storages,
            num_ops + self._num_storages,
        )
        self._scratch = _TailScratch(*(np.zeros(size, dtype=np.int64) for size in sizes))

    def __call__(self, at_hand: Iterable[int]) -> tuple[list[int], list[int]]:
        """What runs after the forward pass, if these storages are in memory then.

        What is missing is recomputed just before its first reader.

        Returns:
            The order, and storages that must be in memory too, because nothing can recompute them.
        """
        is_there = np.zeros(self._num_storages, dtype=np.int64)
        for storage in at_hand:
            is_there[storage] = 1
        length, num_added = _follow(is_there, self._access, self._graph, self._scratch)
        return self._scratch.order[:length].tolist(), self._scratch.added[:num_added].tolist()


@compiled
def _count(
    order: Numbers, access: Access, costs: _Costs, scratch: _TallyScratch, live: Numbers
) -> tuple[int, int]:
    """Peak and recompute time; fills `live`, zeros at first, with the bytes at every place."""
    last, born, has_run = scratch
    last[:] = 0
    born[:] = -1
    has_run[:] = 0
    recompute = 0
    for place in range(order.size):
        op = order[place]
        for k in range(access.reads_at[op], access.reads_at[op + 1]):
            last[access.reads[k]] = place
        for k in range(access.writes_at[op], access.writes_at[op + 1]):
            storage = access.writes[k]
            if born[storage] >= 0:
                live[last[storage] + 1] -= costs.size_bytes[storage]
            born[storage] = place
            last[storage] = place
            live[place] += costs.size_bytes[storage]
        if has_run[op]:
            recompute += costs.runtime_ns[op]
        has_run[op] = 1
    for storage in range(born.size):
        if born[storage] >= 0 and not costs.is_output[storage]:
            live[last[storage] + 1] -= costs.size_bytes[storage]
    in_use = 0
    peak = 0
    for place in range(order.size):
        in_use += live[place]
        live[place] = in_use + costs.working_bytes[order[place]]
        peak = max(peak, live[place])
    return peak, recompute


@compiled
def _follow(
    at_hand: Numbers, access: Access, graph: _TailGraph, scratch: _TailScratch
) -> tuple[int, int]:
    """Writes order and storages into the scratch; returns the length of each."""
    marked, stack, added, order = scratch
    num_forward = graph.may_run.size
    length = 0
    num_added = 0
    for backward in range(num_forward, graph.region.size):
        top = 0
        for k in range(access.reads_at[backward], access.reads_at[backward + 1]):
            storage = access.reads[k]
            if graph.producer[storage] < num_forward and not at_hand[storage]:
                stack[top] = storage
                top += 1
        first = num_forward
        last = -1
        while top > 0:
            top -= 1
            storage = stack[top]
            op = graph.producer[storage]
            if at_hand[storage] or marked[op]:
                continue
            if not graph.may_run[op] or graph.region[op] != graph.region[backward]:
                at_hand[storage] = 1
                added[num_added] = storage
                num_added += 1
                continue
            marked[op] = 1
            first = min(first, op)
            last = max(last, op)
            for k in range(access.reads_at[op], access.reads_at[op + 1]):
                if not at_hand[access.reads[k]]:
                    stack[top] = access.reads[k]
                    top += 1
        for op in range(first, last + 1):
            if marked[op]:
                marked[op] = 0
                order[length] = op
                length += 1
                for k in range(access.writes_at[op], access.writes_at[op + 1]):
                    at_hand[access.writes[k]] = 1
        order[length] = backward
        length += 1
    return length, num_added
