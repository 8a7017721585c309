"""Where the memory and the time of a schedule go: by kind at its peak, and by module."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from autockpt.report.parts import ModuleRow
from autockpt.report.timeline.replay import Replay
from autockpt_solvers import Compute, ComputeGraph, MemoryTimeline, Schedule


def peak_parts(
    graph: ComputeGraph, schedule: Schedule, timeline: MemoryTimeline, outside: AbstractSet[int]
) -> dict[str, int]:
    """What a step has in memory at its peak, in bytes by kind; the parts add up to it.

    Args:
        graph: The step.
        schedule: When its ops run.
        timeline: What the schedule needs.
        outside: The ops that code outside of the model runs.
    """
    replay = Replay(graph=graph, saved=set(timeline.saved), outside=outside)
    for step in schedule.steps[: timeline.peak_step + 1]:
        replay.step(step)
    last = schedule.steps[timeline.peak_step]
    assert isinstance(last, Compute), "memory is at its peak while an op runs"
    kind, size_bytes = replay.workspace(last)
    totals = replay.totals | {kind: size_bytes}
    return {kind: size_bytes for kind, size_bytes in totals.items() if size_bytes}


def kept_outputs_bytes(graph: ComputeGraph, outside: AbstractSet[int]) -> int:
    """Bytes of the outputs of a call that the caller keeps through the backward.

    Args:
        graph: The step.
        outside: The ops that code outside of the model runs.
    """
    return sum(
        graph.size(storage)
        for storage, maker in enumerate(graph.producer)
        if graph.is_output[storage] and not graph.ops[maker].is_backward and maker not in outside
    )


def module_rows(
    graph: ComputeGraph, schedule: Schedule, timeline: MemoryTimeline
) -> tuple[ModuleRow, ...]:
    """What the schedule saves and recomputes, by module."""
    rows: dict[str, list[int]] = {}
    saved = set(timeline.saved)
    for op in graph.ops:
        if not op.is_backward:
            row = rows.setdefault(op.segment, [0, 0, 0, 0])
            row[0] += sum(graph.storages[s].size_bytes for s in op.writes if s in saved)
    num_runs = [0] * len(graph.ops)
    for step in schedule.steps:
        if isinstance(step, Compute):
            num_runs[step.op] += 1
            if num_runs[step.op] > 1:
                op = graph.ops[step.op]
                row = rows.setdefault(op.segment, [0, 0, 0, 0])
                row[1] += sum(graph.storages[s].size_bytes for s in op.writes)
                row[2] += op.runtime_ns
                row[3] += 1
    return tuple(
        ModuleRow(
            module=module,
            saved_bytes=row[0],
            recomputed_bytes=row[1],
            recompute_ns=row[2],
            num_recomputed_ops=row[3],
        )
        for module, row in rows.items()
        if any(row)
    )
