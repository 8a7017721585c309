"""Where the memory and the time of a schedule go: by kind at its peak, and by module."""

from __future__ import annotations

from autockpt.report.parts import ModuleRow
from autockpt_solvers import Compute, ComputeGraph, MemoryTimeline, Schedule


def bytes_at_step(graph: ComputeGraph, schedule: Schedule, at: int) -> dict[str, int]:
    """Bytes by kind while the op of a step runs."""
    live: dict[int, str] = {}
    num_runs = [0] * len(graph.ops)
    for position, step in enumerate(schedule.steps[: at + 1]):
        if not isinstance(step, Compute):
            del live[step.storage]
            continue
        op = graph.ops[step.op]
        num_runs[step.op] += 1
        for storage in op.writes:
            if op.is_backward:
                kind = "gradients" if graph.is_output[storage] else "backward values"
            else:
                kind = "saved activations" if num_runs[step.op] == 1 else "recomputed activations"
            live[storage] = kind
        for storage in op.overwrites:
            del live[storage]
        if position == at:
            totals = dict.fromkeys(
                ("gradients", "saved activations", "recomputed activations", "backward values"), 0
            )
            for storage, kind in live.items():
                totals[kind] += graph.storages[storage].size_bytes
            return totals | {"workspace": op.workspace_bytes}
    raise AssertionError(f"step {at} is no Compute")


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
