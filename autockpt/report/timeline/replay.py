"""Replays a schedule and counts its memory by kind; the sums are those of the simulator."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from autockpt.report.kinds import STORAGE_KINDS, MemoryKind
from autockpt.report.timeline.marked_ops import (
    CLEARED_GRADIENTS,
    INCOMING_GRADIENTS,
    OPTIMIZER_STEP,
)
from autockpt_solvers import Compute, ComputeGraph, Free, Schedule

_WORKSPACES = {
    OPTIMIZER_STEP: MemoryKind.OPTIMIZER_WORKSPACE,
    INCOMING_GRADIENTS: MemoryKind.CALLS_BETWEEN,
}


@dataclass(slots=True, kw_only=True, eq=False)
class Replay:
    """What a schedule has in memory after each of its steps.

    Attributes:
        graph: The graph.
        saved: Storages that are live at the end of the forward.
        outside: The ops that code outside of the model runs.
        live: The kind of each storage that is in memory.
        num_runs: Per op, how often it has run.
        totals: Bytes by kind, without the workspace of an op.
    """

    graph: ComputeGraph
    saved: Collection[int]
    outside: Collection[int]
    live: dict[int, MemoryKind] = field(default_factory=dict)
    num_runs: list[int] = field(init=False)
    totals: dict[MemoryKind, int] = field(init=False)

    def __post_init__(self) -> None:
        self.num_runs = [0] * len(self.graph.ops)
        self.totals = dict.fromkeys(STORAGE_KINDS, 0)

    def step(self, step: Compute | Free) -> None:
        """Goes on by a step of a schedule that the simulator accepts."""
        if isinstance(step, Free):
            self._remove(step.storage)
            return
        op = self.graph.ops[step.op]
        self.num_runs[step.op] += 1
        for storage in op.writes:
            kind = self._kind(step.op, storage)
            self.live[storage] = kind
            self.totals[kind] += self.graph.size(storage)
        for storage in op.overwrites:
            self._remove(storage)

    def workspace(self, step: Compute | Free) -> tuple[MemoryKind, int]:
        """The kind of an op's workspace, and its bytes; 0 for a step that runs none."""
        if isinstance(step, Free):
            return MemoryKind.WORKSPACE, 0
        op = self.graph.ops[step.op]
        return _WORKSPACES.get(op.name, MemoryKind.WORKSPACE), op.workspace_bytes

    def _remove(self, storage: int) -> None:
        self.totals[self.live.pop(storage)] -= self.graph.size(storage)

    def _kind(self, index: int, storage: int) -> MemoryKind:
        op, is_output = self.graph.ops[index], self.graph.is_output[storage]
        if op.is_backward and is_output:
            return MemoryKind.GRADIENTS
        if index in self.outside:
            return MemoryKind.OUTSIDE
        if op.is_backward:
            return MemoryKind.BACKWARD
        if self.num_runs[index] > 1:
            return MemoryKind.RECOMPUTED
        if op.name == CLEARED_GRADIENTS:
            return MemoryKind.CLEARED_GRADIENTS
        if is_output:
            return MemoryKind.OUTPUTS
        return MemoryKind.SAVED if storage in self.saved else MemoryKind.FORWARD


def forward_end(graph: ComputeGraph, schedule: Schedule) -> int:
    """The step of a schedule after which the forward is done; -1 if nothing of it must run."""
    left = {op for op, needed in enumerate(graph.is_required) if needed}
    end = -1
    for position, step in enumerate(schedule.steps):
        if isinstance(step, Compute) and step.op in left:
            left.discard(step.op)
            end = position
    return end
