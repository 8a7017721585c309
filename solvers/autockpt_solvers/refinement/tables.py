"""A plan as two tables of what it keeps in memory, on plain arrays.

The first table says which storages are kept at the end of the forward pass. The second says which
storages are still kept after each backward op that touched them. What is missing when a backward op
comes is recomputed right before it, in forward order. So every state of the tables is a plan, one
changed entry may add or remove a whole chain of runs, and there are no borders between windows.

Only backward ops that read storages of the forward pass matter here: the *readers*. Between two of
them the forward storages in memory stay the same, and what backward ops need for themselves does
not depend on the plan. A changed entry is followed from reader to reader as long as it makes a
difference (`changes`). Everything that it changes is noted, so that it can be undone (`undo`).
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autockpt_solvers.orders.tally import flat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from autockpt_solvers.orders.facts import GraphFacts

    Numbers = NDArray[np.int64]
    Flags = NDArray[np.uint8]

READ, MADE = 1, 2  # how a reader's runs touch a storage first: they read it, or recompute it
FAR_BELOW = -(1 << 60)  # bytes where nothing runs

# Sums over a plan, and what the change that is being made has reached.
TOTALS = np.dtype(
    [
        # Bytes over the budget, summed over all runs. The backward ops between two readers all
        # count as the highest of them.
        ("over_bytes", np.int64),
        ("recompute_ns", np.int64),
        # Of the forward pass: bytes over the budget, and the peak.
        ("forward_over_bytes", np.int64),
        ("forward_peak_bytes", np.int64),
        ("num_again", np.int64),  # runs of forward ops for readers
        ("again_end", np.int64),  # used entries of `PlanTables.again`
        ("num_notes", np.int64),  # used rows of `PlanTables.notes`
        # The first and the last reader whose bytes must be counted anew, whether those of the
        # forward pass must be, and whether they have been.
        ("first_dirty", np.int64),
        ("last_dirty", np.int64),
        ("is_forward_changed", np.int64),
        ("is_counted", np.int64),
    ]
)

# Entries that a change may add to the tables. A change that adds more is refused.
_NOTES_PER_READER, _NOTES_PER_STORAGE = 40, 16


class GraphTables(NamedTuple):
    """The graph. Units are forward ops, then readers; storages are those of the forward pass.

    Attributes:
        reads_at: Per unit, where its reads begin.
        reads: Storages that units read.
        writes_at: Per forward op, where its writes begin.
        writes: Storages that forward ops write.
        size_bytes: Per storage; 0 for outputs, which always stay in memory.
        producer: Per storage, its op.
        is_decided: Per storage, whether the tables decide about it.
        working_bytes: Per forward op; see `ComputeGraph`.
        runtime_ns: Per forward op.
        is_rerunnable: Per forward op.
        is_required: Per forward op.
        region: Per unit.
        forward_ops: Forward ops in the order they run.
        place: Per forward op, its place in that order.
        may_be_early: Per forward op, whether it may run in the forward pass.
        forward_output_bytes: Per place, the bytes of outputs written by then.
        before_bytes: Per reader, bytes in use right before it, without forward storages.
        at_bytes: Per reader, the same while it runs.
        gap_bytes: Per reader, the most of the same since the reader before; then after the last.
        gap_runs: Per reader, the number of ops since the reader before; then after the last.
        row: Per reader, its place among the backward ops.
        readers_at: Per storage, where its readers begin.
        readers: Readers of storages, ascending for each.
    """

    reads_at: Numbers
    reads: Numbers
    writes_at: Numbers
    writes: Numbers
    size_bytes: Numbers
    producer: Numbers
    is_decided: Numbers
    working_bytes: Numbers
    runtime_ns: Numbers
    is_rerunnable: Numbers
    is_required: Numbers
    region: Numbers
    forward_ops: Numbers
    place: Numbers
    may_be_early: Numbers
    forward_output_bytes: Numbers
    before_bytes: Numbers
    at_bytes: Numbers
    gap_bytes: Numbers
    gap_runs: Numbers
    row: Numbers
    readers_at: Numbers
    readers: Numbers


class PlanTables(NamedTuple):
    """A plan, and what follows from it.

    Attributes:
        kept_at_end: Per storage, whether it is kept at the end of the forward pass.
        kept_after: Per storage and reader, whether it is kept after the reader, if that touches it.
        at_hand: Per storage and reader, whether it is in memory when the reader comes.
        touch: Per storage and reader, whether the reader's runs touch it, and how first.
        live: Per storage and reader, whether it is in memory before the reader and needed later.
        start: Per reader, where its runs begin in `again`.
        num_again: Per reader, the number of ops that run again for it.
        again: Ops that run again, reader by reader; an entry for the reader itself follows them.
        again_bytes: Bytes of each run, without `live_bytes` of its reader.
        live_bytes: Per reader, the bytes of forward storages that are live right before it.
        most_bytes: Per reader, the most of `again_bytes`, and of the ops before it.
        over: Per reader, bytes over the budget, summed as in `TOTALS` over its runs and its gap.
        peak: Per reader, the most bytes.
        runs: Per forward op, how often it runs.
        in_forward: Per forward op, whether it runs in the forward pass.
        forward_live: Per place in the forward pass, bytes of storages.
        forward_own: Per place, other bytes; far below 0 if nothing runs there.
        forward_last: Per storage, the last place in the forward pass that touches it.
        totals: One record of `TOTALS`.
        notes: What the last change changed; see `undo`.
    """

    kept_at_end: Numbers
    kept_after: Flags
    at_hand: Flags
    touch: Flags
    live: Flags
    start: Numbers
    num_again: Numbers
    again: Numbers
    again_bytes: Numbers
    live_bytes: Numbers
    most_bytes: Numbers
    over: Numbers
    peak: Numbers
    runs: Numbers
    in_forward: Flags
    forward_live: Numbers
    forward_own: Numbers
    forward_last: Numbers
    totals: NDArray[Any]
    notes: Numbers


class Scratch(NamedTuple):
    """What changes need while they are made.

    Attributes:
        marked: Per forward op.
        stack: Storages or ops to look at.
        touched: Storages that a reader's runs touch or touched.
        code: Per storage, how the reader's runs touch it now.
        is_touched: Per storage, whether it is in `touched`.
        last: Per storage, the run of a reader that touches it last.
        differs: Storages that are in memory and were not, or the other way round.
        changed: Storages that some reader touches in another way.
        first_change: Per storage, the first such reader; the number of readers if there is none.
        last_change: Per storage, the last one.
        dirty: Per reader, whether the bytes of its runs must be counted anew.
        over: `PlanTables.over` before the change, for readers whose bytes are counted anew.
        peak: `PlanTables.peak` before the change, likewise.
        before: `PlanTables.totals` before the change.
    """

    marked: Flags
    stack: Numbers
    touched: Numbers
    code: Flags
    is_touched: Flags
    last: Numbers
    differs: Numbers
    changed: Numbers
    first_change: Numbers
    last_change: Numbers
    dirty: Flags
    over: Numbers
    peak: Numbers
    before: NDArray[Any]


def graph_tables(facts: GraphFacts, storages: Sequence[int], is_decided: Numbers) -> GraphTables:
    """A graph as tables.

    Args:
        facts: The graph.
        storages: The storages of the forward pass.
        is_decided: Per such storage, whether the tables decide about it.
    """
    graph, num_forward = facts.graph, facts.graph.num_forward
    number = {s: k for k, s in enumerate(storages)}
    rows = range(len(graph.ops) - num_forward)
    readers = [k for k in rows if any(s in number for s in facts.reads[num_forward + k])]
    units = [*range(num_forward), *(num_forward + k for k in readers)]
    reads_at, reads = flat([[number[s] for s in facts.reads[u] if s in number] for u in units])
    writes_at, writes = flat([[number[s] for s in facts.writes[u]] for u in range(num_forward)])
    outputs = [
        sum(graph.size(s) for s in facts.writes[u] if graph.is_output[s]) for u in facts.by_rank
    ]
    before, at = _own_bytes(facts, sum(outputs))
    place = {num_forward + k: number for number, k in enumerate(readers)}
    readers_at, read_by = flat(
        [[place[r] for r in graph.readers[s] if r >= num_forward] for s in storages]
    )
    gaps = [range(a + 1, b) for a, b in pairwise([-1, *readers, len(rows)])]
    columns: dict[str, Sequence[int]] = {
        "reads_at": reads_at,
        "reads": reads,
        "writes_at": writes_at,
        "writes": writes,
        "size_bytes": [0 if graph.is_output[s] else graph.size(s) for s in storages],
        "producer": [graph.producer[s] for s in storages],
        "is_decided": is_decided.tolist(),
        "working_bytes": facts.working[:num_forward],
        "runtime_ns": facts.runtime[:num_forward],
        "is_rerunnable": facts.rerunnable[:num_forward],
        "is_required": graph.is_required[:num_forward],
        "region": [facts.region[u] for u in units],
        "forward_ops": facts.by_rank,
        "place": facts.forward_rank,
        "may_be_early": _may_be_early(facts),
        "forward_output_bytes": list(accumulate(outputs)),
        "before_bytes": [before[k] for k in readers],
        "at_bytes": [at[k] for k in readers],
        "gap_bytes": [max((at[k] for k in gap), default=FAR_BELOW) for gap in gaps],
        "gap_runs": [len(gap) for gap in gaps],
        "row": readers,
        "readers_at": readers_at,
        "readers": read_by,
    }
    return GraphTables(**{name: np.array(c, dtype=np.int64) for name, c in columns.items()})


def _own_bytes(facts: GraphFacts, outputs_bytes: int) -> tuple[list[int], list[int]]:
    """Per backward op, bytes without forward storages: right before it, and while it runs."""
    graph, num_forward = facts.graph, facts.graph.num_forward
    freed = [0] * (len(graph.ops) + 1)
    for s, op in enumerate(graph.producer):
        if op >= num_forward and not graph.is_output[s]:
            freed[max([op, *graph.readers[s]])] += graph.size(s)
    live = outputs_bytes
    before, at = [], []
    for op in range(num_forward, len(graph.ops)):
        before.append(live)
        live += sum(graph.size(s) for s in facts.writes[op])
        at.append(live + facts.working[op])
        live -= freed[op]
    return before, at


def _may_be_early(facts: GraphFacts) -> list[bool]:
    """Whether a forward op may run before the backward, as its region allows."""
    graph = facts.graph
    required = [k for k in range(graph.num_forward) if graph.is_required[k]]
    last = max((facts.forward_rank[k] for k in required), default=-1)
    region = facts.region[graph.num_forward] if graph.num_forward < len(graph.ops) else 0
    return [
        facts.forward_rank[k] < last or facts.region[k] == region or graph.is_required[k]
        for k in range(graph.num_forward)
    ]


def blank(graph: GraphTables, most_runs: int) -> tuple[PlanTables, Scratch]:
    """Tables for a plan and its changes, to be filled.

    Args:
        graph: The graph.
        most_runs: How many forward ops a plan may run for readers.
    """
    num_storages, num_ops = graph.size_bytes.size, graph.place.size
    num_readers = graph.row.size

    def zeros(*shape: int) -> Numbers:
        return np.zeros(shape, dtype=np.int64)

    def flags(*shape: int) -> Flags:
        return np.zeros(shape, dtype=np.uint8)

    # A change lists the runs of every reader anew once at most; it begins when half of it is free.
    size = 4 * (most_runs + num_readers) + num_ops + 8
    num_notes = _NOTES_PER_READER * num_readers + _NOTES_PER_STORAGE * num_storages + 64
    plan = PlanTables(
        kept_at_end=zeros(num_storages),
        kept_after=flags(num_storages, num_readers),
        at_hand=flags(num_storages, num_readers + 1),
        touch=flags(num_storages, num_readers),
        live=flags(num_storages, num_readers + 1),
        start=zeros(num_readers),
        num_again=zeros(num_readers),
        again=zeros(size),
        again_bytes=zeros(size),
        live_bytes=zeros(num_readers + 1),
        most_bytes=zeros(num_readers),
        over=zeros(num_readers),
        peak=zeros(num_readers + 1),
        runs=zeros(num_ops),
        in_forward=flags(num_ops),
        forward_live=zeros(num_ops),
        forward_own=zeros(num_ops),
        forward_last=zeros(num_storages),
        totals=np.zeros(1, dtype=TOTALS),
        notes=zeros(num_notes, 4),
    )
    work = Scratch(
        marked=flags(num_ops),
        stack=zeros(graph.reads.size + num_ops + 8),
        touched=zeros(num_storages),
        code=flags(num_storages),
        is_touched=flags(num_storages),
        last=zeros(num_storages),
        differs=zeros(num_storages + 2),
        changed=zeros(num_storages),
        first_change=np.full(num_storages, num_readers, dtype=np.int64),
        last_change=np.full(num_storages, -1, dtype=np.int64),
        dirty=flags(num_readers),
        over=zeros(num_readers),
        peak=zeros(num_readers),
        before=np.zeros(1, dtype=TOTALS),
    )
    return plan, work
