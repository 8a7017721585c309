"""The simulator: replays a schedule, counts every byte, and raises if a step cannot run.

It imports no solver, and `solve` returns no schedule that it has not replayed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autockpt_solvers.schedule import Compute, Schedule

if TYPE_CHECKING:
    from autockpt_solvers.graph import ComputeGraph, Op


class ScheduleError(ValueError):
    """A schedule that cannot run, and the step at which it fails.

    Attributes:
        step: Index of the failing step; the number of steps if the schedule ends too soon.
    """

    def __init__(self, message: str, *, step: int) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTimeline:
    """The memory and the cost of a schedule.

    Attributes:
        peak_bytes: Most bytes at any step.
        peak_step: First step with that many bytes.
        recompute_ns: Time of all runs less the time of each op that ran, once.
        live_bytes: Bytes per step: while an op runs, with its reads, writes and workspace, and what
            it overwrites counted once; or after a free.
        num_recomputed_ops: Number of runs beyond each op's first.
        saved: Storages live at the end of the forward pass, ascending: after every required forward
            op has run, and the frees that follow the last of them.
    """

    peak_bytes: int
    peak_step: int
    recompute_ns: int
    live_bytes: tuple[int, ...] = field(repr=False)
    num_recomputed_ops: int
    saved: tuple[int, ...] = field(repr=False)


def simulate(graph: ComputeGraph, schedule: Schedule) -> MemoryTimeline:
    """Replay `schedule` on `graph`.

    Args:
        graph: The graph.
        schedule: The schedule. Ops may run in any order that their reads allow, backward ops for
            the first time within their stretch.

    Returns:
        Its memory at every step and its cost.

    Raises:
        ScheduleError: At the first step that could not run.
    """
    replay = _Replay(graph)
    for step in schedule.steps:
        if isinstance(step, Compute):
            replay.compute(step.op)
        else:
            replay.free(step.storage)
        replay.step += 1
    return replay.finish()


class _Replay:
    """State of a replay; one step at a time."""

    def __init__(self, graph: ComputeGraph) -> None:
        self.graph = graph
        self.step = 0
        self.live = bytearray(len(graph.storages))
        self.bytes = 0
        self.timeline: list[int] = []
        self.num_runs = [0] * len(graph.ops)
        self.required_left = sum(graph.is_required)
        self.saved: tuple[int, ...] = ()
        self.at_forward_end = not self.required_left
        self.forward_region = 0
        # Backward ops left to run, per region; the highest region with any runs its backward.
        self.backward_left: dict[int, int] = {}
        # The stretch of the backward that is running, and its ops that are left to run.
        self.stretch = 1
        self.stretch_left = Counter(graph.stretch)
        for op in graph.ops:
            if op.is_backward:
                self.backward_left[op.region] = self.backward_left.get(op.region, 0) + 1

    def compute(self, index: int) -> None:
        graph = self.graph
        if not 0 <= index < len(graph.ops):
            raise self.error(f"op {index} is not in the graph, which has {len(graph.ops)} ops")
        op = graph.ops[index]
        self.note_saved()
        first = self.num_runs[index] == 0
        if not first and not op.recomputable:
            raise self.error(f"op {op.name!r} runs a second time; it may run only once")
        for storage in op.reads:
            if not self.live[storage]:
                raise self.error(f"op {op.name!r} reads {self.name(storage)}, which is not live")
        for storage in op.writes:
            if self.live[storage]:
                raise self.error(
                    f"op {op.name!r} writes {self.name(storage)}, which is still live; "
                    "free it first"
                )
            self.live[storage] = 1
            self.bytes += graph.storages[storage].size_bytes
        if op.is_backward:
            if self.required_left:
                raise self.error(
                    f"backward op {op.name!r} runs before {self.required_left} forward ops that "
                    "the outputs need"
                )
            if first:
                self.check_stretch(index)
            self.backward_left[op.region] -= first
        else:
            self.check_region(op)
        for storage in op.overwrites:
            self.live[storage] = 0
            self.bytes -= graph.storages[storage].size_bytes
        self.timeline.append(self.bytes + op.workspace_bytes)
        self.num_runs[index] += 1
        if first and graph.is_required[index]:
            self.required_left -= 1
            self.at_forward_end = not self.required_left

    def note_saved(self) -> None:
        """Note what is saved, after the frees that follow the last required op."""
        if self.at_forward_end:
            self.at_forward_end = False
            self.saved = tuple(s for s, live in enumerate(self.live) if live)

    def check_stretch(self, index: int) -> None:
        """Backward ops may change places within a region and between fences only."""
        graph = self.graph
        while not self.stretch_left[self.stretch]:
            self.stretch += 1
        if graph.stretch[index] != self.stretch:
            waits = graph.stretch.index(self.stretch)
            raise self.error(
                f"backward op {graph.ops[index].name!r} runs before {graph.ops[waits].name!r} or "
                "another op of its stretch; backward ops must not pass a fence or the border of a "
                "region"
            )
        self.stretch_left[self.stretch] -= 1

    def check_region(self, op: Op) -> None:
        """A region's forward ops run in its forward pass or in its backward only."""
        if self.required_left:
            if op.region < self.forward_region:
                raise self.error(
                    f"op {op.name!r} of region {op.region} runs in the forward pass of region "
                    f"{self.forward_region}"
                )
            self.forward_region = op.region
            return
        current = max((region for region, left in self.backward_left.items() if left), default=None)
        if op.region != current:
            where = (
                "the backward is over"
                if current is None
                else f"the backward of region {current} is running"
            )
            raise self.error(
                f"forward op {op.name!r} of region {op.region} runs while {where}; "
                "it may run in its own region's backward only"
            )

    def free(self, storage: int) -> None:
        graph = self.graph
        if not 0 <= storage < len(graph.storages):
            raise self.error(
                f"storage {storage} is not in the graph, which has {len(graph.storages)} storages"
            )
        if graph.is_output[storage]:
            raise self.error(f"{self.name(storage)} is an output and may not be freed")
        if not self.live[storage]:
            raise self.error(f"{self.name(storage)} is freed but is not live")
        self.live[storage] = 0
        self.bytes -= graph.storages[storage].size_bytes
        self.timeline.append(self.bytes)

    def finish(self) -> MemoryTimeline:
        graph = self.graph
        self.note_saved()
        for index, op in enumerate(graph.ops):
            if graph.is_needed[index] and not self.num_runs[index]:
                raise self.error(f"op {op.name!r} is needed and never runs")
        for storage, live in enumerate(self.live):
            if live and not graph.is_output[storage]:
                raise self.error(
                    f"{self.name(storage)} is live at the end; free it, or make it an output"
                )
            if graph.is_output[storage] and not live:
                raise self.error(f"output {self.name(storage)} is not live at the end")
        peak_bytes = max(self.timeline, default=0)
        runs = [(op, n) for op, n in zip(graph.ops, self.num_runs, strict=True) if n > 1]
        return MemoryTimeline(
            peak_bytes=peak_bytes,
            peak_step=self.timeline.index(peak_bytes) if self.timeline else 0,
            recompute_ns=sum(op.runtime_ns * (n - 1) for op, n in runs),
            live_bytes=tuple(self.timeline),
            num_recomputed_ops=sum(n - 1 for _, n in runs),
            saved=self.saved,
        )

    def name(self, storage: int) -> str:
        return f"storage {self.graph.storages[storage].name!r}"

    def error(self, what: str) -> ScheduleError:
        return ScheduleError(f"step {self.step}: {what}", step=self.step)
