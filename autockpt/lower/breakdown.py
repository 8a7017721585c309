"""Where the memory and the time of a schedule go: by kind at its peak, and by module."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from autockpt.lower.origins import CLEARED_GRADIENTS, OPTIMIZER_STEP
from autockpt.report.parts import ModuleRow
from autockpt_solvers import Compute, ComputeGraph, MemoryTimeline, Schedule

# The parts of a step at its peak, in the order in which they are told.
_KINDS = (
    "gradients",
    "outputs",
    "saved activations",
    "recomputed activations",
    "forward values",
    "backward values",
    "loss outside of the model",
    "cleared gradients",
)


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
    live: dict[int, str] = {}
    num_runs = [0] * len(graph.ops)
    saved = set(timeline.saved)
    for step in schedule.steps[: timeline.peak_step + 1]:
        if not isinstance(step, Compute):
            del live[step.storage]
            continue
        op = graph.ops[step.op]
        num_runs[step.op] += 1
        for storage in op.writes:
            is_output = graph.is_output[storage]
            if op.is_backward and is_output:
                kind = "gradients"
            elif step.op in outside:
                kind = "loss outside of the model"
            elif op.is_backward:
                kind = "backward values"
            elif num_runs[step.op] > 1:
                kind = "recomputed activations"
            elif op.name == CLEARED_GRADIENTS:
                kind = "cleared gradients"
            elif is_output:
                kind = "outputs"
            else:
                kind = "saved activations" if storage in saved else "forward values"
            live[storage] = kind
        for storage in op.overwrites:
            del live[storage]
    totals = dict.fromkeys(_KINDS, 0)
    for storage, kind in live.items():
        totals[kind] += graph.storages[storage].size_bytes
    last = schedule.steps[timeline.peak_step]
    assert isinstance(last, Compute), "memory is at its peak while an op runs"
    op = graph.ops[last.op]
    totals["optimizer's step" if op.name == OPTIMIZER_STEP else "workspace"] = op.workspace_bytes
    return {kind: size_bytes for kind, size_bytes in totals.items() if size_bytes}


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
