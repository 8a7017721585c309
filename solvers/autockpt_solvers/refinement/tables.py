"""A plan as tables of what is held, and what a changed entry changes, on plain arrays.

A plan is two tables of booleans: which storages the forward pass keeps, and which storages are
still held after each backward op that touched them. What is missing when a backward op comes is
made again right before it, in forward order. So every state is a plan, one changed entry may run
or spare a whole chain of ops, and no border between windows stands in the way.

Only backward ops that read what the forward pass made matter here: the stages. Between two of them
the forward storages that are live stay the same, and what backward ops need for themselves does
not depend on the plan. A changed entry is followed from stage to stage for as long as it makes a
difference; what it changes is noted, so that it can be taken back.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from autockpt_solvers.orders.tally import flat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from autockpt_solvers.orders.facts import Orders

    Numbers = NDArray[np.int64]
    Flags = NDArray[np.uint8]

READ, MADE = 1, 2  # how a stage touches a storage first: it reads it, or makes it again
FAR_BELOW = -(1 << 60)  # bytes of what is not there

# Places in `Plan.totals`: bytes over the room, summed over all runs, where the ops between two
# stages all count as the highest of them; recompute time; of the forward pass, the bytes over the
# room and the peak; where the pool and the notes end; how many forward ops run for stages;
# the first and the last stage with other bytes than before, whether the forward pass has, and
# whether they are counted.
OVER, RECOMPUTE, HEAD_OVER, HEAD_PEAK, POOL, NOTES, LENGTH = range(7)
FIRST, LAST, HEAD_CHANGED, IS_WEIGHED = range(7, 11)
_NUM_TOTALS = 11


class Stages(NamedTuple):
    """The graph. Units are forward ops, then stages; storages are those of the forward pass.

    Attributes:
        reads_at: Per unit, where its reads begin.
        reads: Storages that units read.
        writes_at: Per forward op, where its writes begin.
        writes: Storages that forward ops write.
        size_bytes: Per storage; 0 for outputs, which are always there.
        producer: Per storage, its op.
        is_decided: Per storage, whether the tables decide about it.
        working_bytes: Per forward op, what its run takes beyond all that is live.
        runtime_ns: Per forward op.
        is_rerunnable: Per forward op.
        is_required: Per forward op.
        region: Per unit.
        forward: Forward ops in the order they run.
        place: Per forward op, its place in that order.
        may_be_early: Per forward op, whether it may run in the forward pass.
        head_bytes: Per place, the bytes of outputs made by then.
        before_bytes: Per stage, bytes besides forward storages right before its op.
        at_bytes: Per stage, the same while its op runs.
        gap_bytes: Per stage, the most of the same since the stage before; then after the last one.
        gap_runs: Per stage, the number of ops since the stage before; then after the last one.
        row: Per stage, its place among the backward ops.
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
    forward: Numbers
    place: Numbers
    may_be_early: Numbers
    head_bytes: Numbers
    before_bytes: Numbers
    at_bytes: Numbers
    gap_bytes: Numbers
    gap_runs: Numbers
    row: Numbers


class Plan(NamedTuple):
    """A plan, and what follows from it.

    Attributes:
        keep: Per storage, whether the forward pass keeps it.
        hold: Per storage and stage, whether it is held after the stage, where that touches it.
        at_hand: Per storage and stage, whether it is at hand when the stage comes.
        touch: Per storage and stage, whether that touches it, and how first.
        live: Per storage and stage, whether it is live right before the stage.
        start: Per stage, where its runs begin in the pool.
        num_again: Per stage, the number of ops that run again for it; its own op follows them.
        pool: Ops that run.
        pool_bytes: Bytes of each run, less `live_bytes` of its stage.
        live_bytes: Per stage, bytes of forward storages that are live right before it.
        most_bytes: Per stage, the most of `pool_bytes`, and of the ops before it.
        over: Per stage, bytes over the room, summed as in `totals` over its runs and its gap.
        peak: Per stage, the most bytes.
        runs: Per forward op, how often it runs.
        in_head: Per forward op, whether it runs in the forward pass.
        head_live: Per place in the forward pass, bytes of storages.
        head_own: Per place, bytes besides; far below 0 where nothing runs.
        head_last: Per storage, the last place in the forward pass that touches it.
        totals: Sums; the names of their places stand above.
        notes: What was changed, to take it back.
    """

    keep: Numbers
    hold: Flags
    at_hand: Flags
    touch: Flags
    live: Flags
    start: Numbers
    num_again: Numbers
    pool: Numbers
    pool_bytes: Numbers
    live_bytes: Numbers
    most_bytes: Numbers
    over: Numbers
    peak: Numbers
    runs: Numbers
    in_head: Flags
    head_live: Numbers
    head_own: Numbers
    head_last: Numbers
    totals: Numbers
    notes: Numbers


class Scratch(NamedTuple):
    """What changes need while they are made.

    Attributes:
        marked: Per forward op.
        stack: Storages or ops to look at.
        touched: Storages that a stage touches or touched.
        code: Per storage, how the stage touches it now.
        is_touched: Per storage, whether it is in `touched`.
        last: Per storage, the run of a stage that touches it last.
        differs: Storages that are at hand and were not, or the other way round.
        changed: Storages that some stage touches in another way.
        first_change: Per storage, the first such stage; the number of stages where there is none.
        last_change: Per storage, the last one.
        dirty: Per stage, whether its runs' bytes must be counted anew.
        over: `Plan.over` before the change, where it changes.
        peak: `Plan.peak` before the change, likewise.
        before: `Plan.totals` before the change.
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
    before: Numbers


def stages_of(orders: Orders, storages: Sequence[int], is_decided: Numbers) -> Stages:
    """A graph as `Stages`.

    Args:
        orders: The graph.
        storages: The storages of the forward pass.
        is_decided: Per such storage, whether the tables decide about it.
    """
    graph, num_forward = orders.graph, orders.graph.num_forward
    number = {s: k for k, s in enumerate(storages)}
    rows = range(len(graph.ops) - num_forward)
    stages = [k for k in rows if any(s in number for s in orders.reads[num_forward + k])]
    units = [*range(num_forward), *(num_forward + k for k in stages)]
    reads_at, reads = flat([[number[s] for s in orders.reads[u] if s in number] for u in units])
    writes_at, writes = flat([[number[s] for s in orders.writes[u]] for u in range(num_forward)])
    rank, forward = orders.forward_rank, orders.by_rank
    outputs = [sum(graph.size(s) for s in orders.writes[u] if graph.is_output[s]) for u in forward]
    before, at = _own_bytes(orders, sum(outputs))
    gaps = [range(a + 1, b) for a, b in pairwise([-1, *stages, len(rows)])]
    columns: list[Sequence[int]] = [
        reads_at,
        reads,
        writes_at,
        writes,
        [0 if graph.is_output[s] else graph.size(s) for s in storages],
        [graph.producer[s] for s in storages],
        is_decided.tolist(),
        orders.working[:num_forward],
        orders.runtime[:num_forward],
        orders.rerunnable[:num_forward],
        graph.is_required[:num_forward],
        [orders.region[u] for u in units],
        forward,
        rank,
        _may_be_early(orders),
        list(accumulate(outputs)),
        [before[k] for k in stages],
        [at[k] for k in stages],
        [max((at[k] for k in gap), default=FAR_BELOW) for gap in gaps],
        [len(gap) for gap in gaps],
        stages,
    ]
    return Stages(*(np.array(column, dtype=np.int64) for column in columns))


def _own_bytes(orders: Orders, outputs_bytes: int) -> tuple[list[int], list[int]]:
    """Per backward op, bytes besides the forward's storages: right before it, and while it runs."""
    graph, num_forward = orders.graph, orders.graph.num_forward
    freed = [0] * (len(graph.ops) + 1)
    for s, op in enumerate(graph.producer):
        if op >= num_forward and not graph.is_output[s]:
            freed[max([op, *graph.readers[s]])] += graph.size(s)
    live = outputs_bytes
    before, at = [], []
    for op in range(num_forward, len(graph.ops)):
        before.append(live)
        live += sum(graph.size(s) for s in orders.writes[op])
        at.append(live + orders.working[op])
        live -= freed[op]
    return before, at


def _may_be_early(orders: Orders) -> list[bool]:
    """Whether an op may run before the backward: where nothing required follows, regions matter."""
    graph = orders.graph
    required = [k for k in range(graph.num_forward) if graph.is_required[k]]
    last = max((orders.forward_rank[k] for k in required), default=-1)
    region = orders.region[graph.num_forward] if graph.num_forward < len(graph.ops) else 0
    return [
        orders.forward_rank[k] < last or orders.region[k] == region or graph.is_required[k]
        for k in range(graph.num_forward)
    ]


def blank(stages: Stages, most_runs: int) -> tuple[Plan, Scratch]:
    """Tables for a plan and its changes, to be filled.

    Args:
        stages: The graph.
        most_runs: For stages a plan may run forward ops this often.
    """
    num_storages, num_ops = stages.size_bytes.size, stages.place.size
    num_stages = stages.row.size

    def zeros(*shape: int) -> Numbers:
        return np.zeros(shape, dtype=np.int64)

    def flags(*shape: int) -> Flags:
        return np.zeros(shape, dtype=np.uint8)

    # A change lists every stage's runs anew once at most; it begins where half of the pool is left.
    size = 4 * (most_runs + num_stages) + num_ops + 8
    plan = Plan(
        keep=zeros(num_storages),
        hold=flags(num_storages, num_stages),
        at_hand=flags(num_storages, num_stages + 1),
        touch=flags(num_storages, num_stages),
        live=flags(num_storages, num_stages + 1),
        start=zeros(num_stages),
        num_again=zeros(num_stages),
        pool=zeros(size),
        pool_bytes=zeros(size),
        live_bytes=zeros(num_stages + 1),
        most_bytes=zeros(num_stages),
        over=zeros(num_stages),
        peak=zeros(num_stages + 1),
        runs=zeros(num_ops),
        in_head=flags(num_ops),
        head_live=zeros(num_ops),
        head_own=zeros(num_ops),
        head_last=zeros(num_storages),
        totals=zeros(_NUM_TOTALS),
        notes=zeros(40 * num_stages + 16 * num_storages + 64, 4),
    )
    work = Scratch(
        marked=flags(num_ops),
        stack=zeros(stages.reads.size + num_ops + 8),
        touched=zeros(num_storages),
        code=flags(num_storages),
        is_touched=flags(num_storages),
        last=zeros(num_storages),
        differs=zeros(num_storages + 2),
        changed=zeros(num_storages),
        first_change=np.full(num_storages, num_stages, dtype=np.int64),
        last_change=np.full(num_storages, -1, dtype=np.int64),
        dirty=flags(num_stages),
        over=zeros(num_stages),
        peak=zeros(num_stages),
        before=zeros(_NUM_TOTALS),
    )
    return plan, work
