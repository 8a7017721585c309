"""A window: some consecutive segments as a small problem of its own.

Everything in it is local: ops and storages have window indices, memory is counted from what
stands when its turn begins. Windows with equal `WindowKind` are the same problem: identical
layers are planned once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.methods.ilp.option import Option
    from autockpt_solvers.methods.ilp.segments import Chain


@dataclass(frozen=True, slots=True)
class Stage:
    """A backward op of the turn: what it reads of the window, and what else stands around it.

    Attributes:
        reads: Window storages it reads.
        before_bytes: What stands before it runs beyond what stood when the turn began.
        during_bytes: The same while it runs.
        open: Whether forward ops may run right before it: it is of the window's own region.
    """

    reads: tuple[int, ...]
    before_bytes: int
    during_bytes: int
    open: bool


@dataclass(frozen=True, slots=True)
class WindowOp:
    """A forward op of the window.

    Attributes:
        runtime_ns: Time of one run.
        working_bytes: What its run takes beyond all that is live and what it writes.
        reads: Window storages it reads; what comes from outside is at hand.
        writes: Window storages it writes.
        rerunnable: Whether it may run a second time.
        fresh: Whether the forward pass does not need it, so its first run is free.
        transient_bytes: What else stands while the forward pass runs it.
    """

    runtime_ns: int
    working_bytes: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    rerunnable: bool
    fresh: bool
    transient_bytes: int


@dataclass(frozen=True, slots=True)
class WindowKind:
    """What makes two windows the same problem.

    Attributes:
        ops: Forward ops, in order.
        sizes: Bytes per window storage.
        stages: The turn.
        forced: Storages that later windows need kept.
        lasting: Storages that the forward pass of later windows still reads.
        producer: Per storage, the op that writes it; derived.
    """

    ops: tuple[WindowOp, ...]
    sizes: tuple[int, ...]
    stages: tuple[Stage, ...]
    forced: frozenset[int]
    lasting: frozenset[int]
    producer: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found = [0] * len(self.sizes)
        for index, op in enumerate(self.ops):
            for storage in op.writes:
                found[storage] = index
        object.__setattr__(self, "producer", tuple(found))
        # Kinds are looked up again and again, and are large.
        content = (self.ops, self.sizes, self.stages, self.forced, self.lasting)
        object.__setattr__(self, "_hash", hash(content))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A window of the chain.

    Attributes:
        start: First segment.
        end: Segment after the last.
        kind: The problem.
        ops: Per window op, the graph's op.
        stages: Per stage, the graph's backward op.
        base_bytes: What stands when the turn begins, kept forward storages not counted.
    """

    start: int
    end: int
    kind: WindowKind
    ops: tuple[int, ...]
    stages: tuple[int, ...]
    base_bytes: int

    def peak_bytes(self, option: Option) -> int:
        """The highest peak of its turn and its forward pass, without what earlier windows keep."""
        return max(self.base_bytes + option.turn_peak_bytes, option.forward_peak_bytes)


def make_window(chain: Chain, start: int, end: int) -> Window:
    """The window of segments `start` to `end`."""
    orders, graph = chain.orders, chain.orders.graph
    ops = chain.forward[chain.starts[start] : chain.starts[end]]
    local: dict[int, int] = {}
    for op in ops:
        for storage in orders.writes[op]:
            if not graph.is_output[storage]:
                local[storage] = len(local)
    first, last = chain.turn(start, end)
    base = chain.before[first] if first < len(chain.before) else 0
    late = [s for s in local if chain.late_until[s] >= 0]

    def own_late(row: int) -> int:
        """Bytes that the chain counts as read late but that are this window's own matter."""
        return sum(
            orders.sizes[s]
            for s in late
            if chain.turn_starts[chain.segment[graph.producer[s]]] <= row
            and row + graph.num_forward <= chain.late_until[s]
        )

    held = {local[s] for s in late if chain.late_until[s] - graph.num_forward >= last}
    stages = []
    for row in range(first, last):
        less = base + own_late(row)
        op = chain.backward[row]
        reads = {local[s] for s in orders.reads[op] if s in local}
        if row == last - 1:
            # What is read after the turn must be there when the turn ends.
            reads |= held
        stages.append(
            Stage(
                reads=tuple(sorted(reads)),
                before_bytes=chain.before[row] - less,
                during_bytes=chain.during[row] - less,
                open=orders.region[op] == chain.region_of_segment[start],
            )
        )
    forced = {k for s, k in local.items() if chain.needed_until[s] >= end}
    if not stages:
        forced |= held
    kind = WindowKind(
        ops=tuple(_window_ops(chain, start, ops, local)),
        sizes=tuple(orders.sizes[s] for s in local),
        stages=tuple(stages),
        forced=frozenset(forced),
        lasting=frozenset(k for s, k in local.items() if chain.forward_until[s] >= end),
    )
    return Window(
        start=start,
        end=end,
        kind=kind,
        ops=tuple(ops),
        stages=tuple(chain.backward[first:last]),
        base_bytes=base,
    )


def _window_ops(
    chain: Chain, start: int, ops: Sequence[int], local: dict[int, int]
) -> list[WindowOp]:
    orders, graph = chain.orders, chain.orders.graph
    passing = chain.passing(start)
    found = []
    for op in ops:
        place = chain.place[op]
        transient = sum(size for last, size in passing if last >= place)
        found.append(
            WindowOp(
                runtime_ns=orders.runtime[op],
                working_bytes=orders.working[op],
                reads=tuple(local[s] for s in orders.reads[op] if s in local),
                writes=tuple(local[s] for s in orders.writes[op] if s in local),
                rerunnable=chain.reruns(op),
                fresh=not graph.is_required[op],
                transient_bytes=chain.outputs_made[place + 1] + transient,
            )
        )
    return found
