"""A window: some consecutive segments as a small problem of its own.

Everything in it is local: ops and storages have window indices, and memory is counted from what is
in use when the window's backward begins. Windows with equal `WindowKind` are the same problem, so
identical layers are planned once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.methods.ilp.option import Option
    from autockpt_solvers.methods.ilp.segments import Segments


@dataclass(frozen=True, slots=True)
class BackwardOp:
    """An op of the window's backward: what it reads of the window, and the memory around it.

    Attributes:
        reads: Window storages that it reads.
        before_bytes: Bytes in use before it runs, less those when the window's backward began.
        during_bytes: The same while it runs.
        may_recompute: Whether forward ops may run right before it: it is of the window's region.
    """

    reads: tuple[int, ...]
    before_bytes: int
    during_bytes: int
    may_recompute: bool


@dataclass(frozen=True, slots=True)
class WindowOp:
    """A forward op of the window.

    Attributes:
        runtime_ns: Time of one run.
        working_bytes: What its run takes beyond all that is live and what it writes.
        reads: Window storages that it reads; what comes from outside is in memory.
        writes: Window storages that it writes.
        rerunnable: Whether it may run a second time.
        fresh: Whether only the backward needs it, so that its first run is free.
        transient_bytes: What else is in memory while the forward pass runs it.
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
        backward: The ops of its backward, in order.
        forced: Storages that it must keep for later windows.
        lasting: Storages that the forward pass of later windows still reads.
        producer: Per storage, the op that writes it; derived.
    """

    ops: tuple[WindowOp, ...]
    sizes: tuple[int, ...]
    backward: tuple[BackwardOp, ...]
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
        content = (self.ops, self.sizes, self.backward, self.forced, self.lasting)
        object.__setattr__(self, "_hash", hash(content))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A window.

    Attributes:
        start: First segment.
        end: Segment after the last.
        kind: The problem.
        ops: Per window op, the graph's op.
        backward: Per op of its backward, the graph's backward op.
        base_bytes: Bytes in use when its backward begins, without kept forward storages.
    """

    start: int
    end: int
    kind: WindowKind
    ops: tuple[int, ...]
    backward: tuple[int, ...]
    base_bytes: int

    def peak_bytes(self, option: Option) -> int:
        """Peak of its backward and its forward pass, without what earlier windows keep."""
        return max(self.base_bytes + option.backward_peak_bytes, option.forward_peak_bytes)


def make_window(segments: Segments, start: int, end: int) -> Window:
    """The window of segments `start` to `end`."""
    facts, graph = segments.facts, segments.facts.graph
    ops = segments.forward[segments.starts[start] : segments.starts[end]]
    local: dict[int, int] = {}
    for op in ops:
        for storage in facts.writes[op]:
            if not graph.is_output[storage]:
                local[storage] = len(local)
    first, last = segments.backward_rows(start, end)
    base = segments.before[first] if first < len(segments.before) else 0
    late = [s for s in local if segments.late_until[s] >= 0]

    def own_late(row: int) -> int:
        """Bytes that the base counts as read late, but that this window counts itself."""
        return sum(
            facts.sizes[s]
            for s in late
            if segments.backward_starts[segments.segment[graph.producer[s]]] <= row
            and row + graph.num_forward <= segments.late_until[s]
        )

    held = {local[s] for s in late if segments.late_until[s] - graph.num_forward >= last}
    backward = []
    for row in range(first, last):
        less = base + own_late(row)
        op = segments.backward[row]
        reads = {local[s] for s in facts.reads[op] if s in local}
        if row == last - 1:
            # What is read after the window's backward must be in memory when that ends.
            reads |= held
        backward.append(
            BackwardOp(
                reads=tuple(sorted(reads)),
                before_bytes=segments.before[row] - less,
                during_bytes=segments.during[row] - less,
                may_recompute=facts.region[op] == segments.region_of_segment[start],
            )
        )
    forced = {k for s, k in local.items() if segments.needed_until[s] >= end}
    if not backward:
        forced |= held
    kind = WindowKind(
        ops=tuple(_window_ops(segments, start, ops, local)),
        sizes=tuple(facts.sizes[s] for s in local),
        backward=tuple(backward),
        forced=frozenset(forced),
        lasting=frozenset(k for s, k in local.items() if segments.forward_until[s] >= end),
    )
    return Window(
        start=start,
        end=end,
        kind=kind,
        ops=tuple(ops),
        backward=tuple(segments.backward[first:last]),
        base_bytes=base,
    )


def _window_ops(
    segments: Segments, start: int, ops: Sequence[int], local: dict[int, int]
) -> list[WindowOp]:
    facts, graph = segments.facts, segments.facts.graph
    passing = segments.passing(start)
    found = []
    for op in ops:
        place = segments.place[op]
        transient = sum(size for last, size in passing if last >= place)
        found.append(
            WindowOp(
                runtime_ns=facts.runtime[op],
                working_bytes=facts.working[op],
                reads=tuple(local[s] for s in facts.reads[op] if s in local),
                writes=tuple(local[s] for s in facts.writes[op] if s in local),
                rerunnable=segments.reruns(op),
                fresh=not graph.is_required[op],
                transient_bytes=segments.outputs_made[place + 1] + transient,
            )
        )
    return found
