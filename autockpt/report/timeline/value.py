"""The memory of one training step over time."""

from __future__ import annotations

from dataclasses import dataclass

from autockpt.budget import format_bytes
from autockpt.report.kinds import MemoryKind
from autockpt.report.timeline.places import Places, SourceLine
from autockpt.report.timeline.replay import Replay
from autockpt_solvers import Compute, ComputeGraph, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One step of a schedule: an operation that runs, or a storage that is freed.

    Attributes:
        start_ns: When it begins, from the start of the step.
        duration_ns: How long it takes; 0 if a storage is freed.
        op: The operation that runs; None if a storage is freed.
        run: How often the operation has run by now: 2 or more if it is recomputed, 0 for none.
        kind_bytes: What is in memory, in bytes, in the order of `Timeline.kinds`.
        total_bytes: The sum.
    """

    start_ns: int
    duration_ns: int
    op: int | None
    run: int
    kind_bytes: tuple[int, ...]
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """Something that is in memory at a moment.

    Attributes:
        name: What it is: the operation that made it, with a number if that made several, or a kind
            of memory that is in use for the whole step.
        kind: The kind, as in the ledger.
        size_bytes: Its bytes.
        op: The operation that made it, an index into the graph's; None for what is fixed.
        module: The module of that operation; empty if it is none.
        line: The source line of that operation, if it is known.
    """

    name: str
    kind: str
    size_bytes: int
    op: int | None = None
    module: str = ""
    line: SourceLine | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Timeline:
    """What a step has in memory at each of its moments.

    Attributes:
        kinds: The kinds of memory that occur, in the order of the ledger.
        moments: A moment for each step of the schedule.
        peak: Index of the first moment with the most bytes.
        forward_end: Index of the last moment of the forward; -1 if there is no forward.
        graph: The graph whose operations run.
        schedule: When they run.
        saved: Storages that are live at the end of the forward.
        places: Where the operations come from.
        fixed: What is in memory all the time, in bytes by kind.
    """

    kinds: tuple[str, ...]
    moments: tuple[Moment, ...]
    peak: int
    forward_end: int
    graph: ComputeGraph
    schedule: Schedule
    saved: frozenset[int]
    places: Places
    fixed: dict[str, int]

    def __repr__(self) -> str:
        return (
            f"<Timeline: {len(self.moments):,} moments in {self.duration_ns / 1e6:,.2f} ms, peak "
            f"{format_bytes(self.peak_bytes)} at moment {self.peak:,}>"
        )

    @property
    def peak_bytes(self) -> int:
        """The most bytes at any moment."""
        return self.moments[self.peak].total_bytes if self.moments else sum(self.fixed.values())

    @property
    def duration_ns(self) -> int:
        """The time of all operations together, repeated runs included."""
        if not self.moments:
            return 0
        return self.moments[-1].start_ns + self.moments[-1].duration_ns

    @property
    def forward_end_ns(self) -> int:
        """When the forward ends."""
        if self.forward_end < 0:
            return 0
        last = self.moments[self.forward_end]
        return last.start_ns + last.duration_ns

    def bytes_by_kind(self, index: int) -> dict[str, int]:
        """What is in memory at a moment, in bytes by kind; kinds without a byte are left out."""
        pairs = zip(self.kinds, self.moments[index].kind_bytes, strict=True)
        return {kind: size_bytes for kind, size_bytes in pairs if size_bytes}

    def name_of(self, storage: int) -> str:
        """What to call a storage: the operation that makes it, numbered if it makes several."""
        op = self.graph.ops[self.graph.producer[storage]]
        sized = [made for made in op.writes if self.graph.size(made)]
        # A storage without a byte is a marker, which nobody sees.
        is_one_of = len(sized) > 1 and storage in sized
        return f"{op.name}[{sized.index(storage)}]" if is_one_of else op.name

    def alive(self, index: int) -> tuple[Alive, ...]:
        """What is in memory at a moment, largest first; the sizes add up to its `total_bytes`.

        Args:
            index: The moment.

        Raises:
            IndexError: There is no such moment.
        """
        moment = self.moments[index]
        last = self.schedule.steps[index]
        replay = Replay(graph=self.graph, saved=self.saved, outside=set(self.places.outside))
        for step in self.schedule.steps[: index % len(self.moments) + 1]:
            replay.step(step)
        found = [
            Alive(name=kind, kind=kind, size_bytes=size_bytes)
            for kind, size_bytes in self.fixed.items()
        ]
        for storage, kind in replay.live.items():
            op = self.graph.producer[storage]
            found.append(self._alive(self.name_of(storage), kind, self.graph.size(storage), op))
        kind, size_bytes = replay.workspace(last)
        if isinstance(last, Compute):
            name = f"{kind} of {self.graph.ops[last.op].name}"
            found.append(self._alive(name, kind, size_bytes, last.op))
        if MemoryKind.EAGER_ALONE in self.kinds:
            size_bytes = moment.kind_bytes[self.kinds.index(MemoryKind.EAGER_ALONE)]
            found.append(
                Alive(
                    name=MemoryKind.EAGER_ALONE, kind=MemoryKind.EAGER_ALONE, size_bytes=size_bytes
                )
            )
        # Ties by the order in which they were made.
        return tuple(sorted((a for a in found if a.size_bytes), key=lambda a: -a.size_bytes))

    def _alive(self, name: str, kind: str, size_bytes: int, op: int) -> Alive:
        return Alive(
            name=name,
            kind=kind,
            size_bytes=size_bytes,
            op=op,
            module=self.graph.ops[op].segment,
            line=self.places.line_of(op),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimelines:
    """The same step in eager PyTorch and under the plan.

    Attributes:
        eager: The step with nothing recomputed and, as in eager, nothing overwritten.
        plan: The step under the plan.
    """

    eager: Timeline
    plan: Timeline
