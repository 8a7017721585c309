"""Makes the timelines of a plan: of its schedule, and of the same step in eager PyTorch."""

from __future__ import annotations

import dataclasses

from autockpt.report.kinds import STEP_KINDS, MemoryKind
from autockpt.report.timeline.places import Places
from autockpt.report.timeline.replay import Replay, forward_end
from autockpt.report.timeline.value import Moment, StepTimelines, Timeline
from autockpt.report.values import PlanValues
from autockpt_solvers import Compute, ComputeGraph, Schedule, baseline_schedule, simulate


def timelines(
    values: PlanValues, graph: ComputeGraph, schedule: Schedule, places: Places
) -> StepTimelines:
    """Returns the memory of a step over time, in eager PyTorch and under the plan.

    Args:
        values: The plan.
        graph: Its graph.
        schedule: Its schedule.
        places: Where the graph's operations come from.
    """
    fixed = values.fixed.by_kind | {MemoryKind.OLDER_GRADIENTS: values.older_gradients_bytes}
    peak_bytes = sum(fixed.values()) + simulate(graph, schedule).peak_bytes
    alone_bytes = max(0, values.predicted_peak_bytes - peak_bytes)
    plan = _timeline(graph, schedule, places, fixed, alone_bytes=alone_bytes)
    return StepTimelines(eager=_eager(values, graph, places, fixed), plan=plan)


def _eager(
    values: PlanValues, graph: ComputeGraph, places: Places, fixed: dict[str, int]
) -> Timeline:
    """The step as eager runs it: operations in their order, once, with nothing overwritten."""
    fixed = fixed | {MemoryKind.OTHER_CALLS: 0}
    room_bytes = values.baseline_peak_bytes - sum(fixed.values())
    bare = dataclasses.replace(
        graph, ops=tuple(dataclasses.replace(op, overwrites=()) for op in graph.ops)
    )
    schedule = baseline_schedule(bare)
    rest_bytes = room_bytes - simulate(bare, schedule).peak_bytes
    if rest_bytes < 0:
        # Where eager adds up in place, as the graph does.
        bare, schedule = graph, baseline_schedule(graph)
        rest_bytes = room_bytes - simulate(bare, schedule).peak_bytes
    if rest_bytes < 0:
        # On the rung without a capture eager is measured, and may need less than its calls alone.
        bare, rest_bytes = _with_less_workspace(bare, schedule, room_bytes), 0
    if values.fixed.other_calls_bytes:
        return _timeline(
            bare, schedule, places, fixed | {MemoryKind.OTHER_CALLS: rest_bytes}, alone_bytes=0
        )
    return _timeline(bare, schedule, places, fixed, alone_bytes=rest_bytes)


def _with_less_workspace(graph: ComputeGraph, schedule: Schedule, most_bytes: int) -> ComputeGraph:
    """A graph of which a schedule needs no more than this, as far as workspace can tell."""
    less = dict.fromkeys(range(len(graph.ops)), 0)
    for step, live_bytes in zip(schedule.steps, simulate(graph, schedule).live_bytes, strict=True):
        if isinstance(step, Compute):
            less[step.op] = max(less[step.op], live_bytes - most_bytes)
    ops = tuple(
        dataclasses.replace(op, workspace_bytes=max(0, op.workspace_bytes - less[at]))
        for at, op in enumerate(graph.ops)
    )
    return dataclasses.replace(graph, ops=ops)


def _timeline(
    graph: ComputeGraph,
    schedule: Schedule,
    places: Places,
    fixed: dict[str, int],
    *,
    alone_bytes: int,
) -> Timeline:
    """The timeline of a schedule.

    Args:
        graph: The graph.
        schedule: What runs.
        places: Where the operations come from.
        fixed: What is in memory all the time, in bytes by kind.
        alone_bytes: Bytes at the peak that are in eager PyTorch alone.
    """
    simulated = simulate(graph, schedule)
    replay = Replay(graph=graph, saved=set(simulated.saved), outside=set(places.outside))
    rows: list[list[int]] = []
    for step in schedule.steps:
        replay.step(step)
        kind, size_bytes = replay.workspace(step)
        now = replay.totals | {kind: size_bytes}
        rows.append([now.get(kind, 0) for kind in STEP_KINDS])
    all_kinds = (*fixed, *STEP_KINDS, MemoryKind.EAGER_ALONE)
    fixed_bytes = list(fixed.values())
    table = [[*fixed_bytes, *row, 0] for row in rows]
    if table:
        table[simulated.peak_step][-1] = alone_bytes
    used = [at for at in range(len(all_kinds)) if any(row[at] for row in table)]
    return Timeline(
        kinds=tuple(all_kinds[at] for at in used),
        moments=_moments(graph, schedule, [tuple(row[at] for at in used) for row in table]),
        peak=simulated.peak_step,
        forward_end=forward_end(graph, schedule),
        graph=graph,
        schedule=schedule,
        saved=frozenset(simulated.saved),
        places=places,
        fixed=fixed,
    )


def _moments(
    graph: ComputeGraph, schedule: Schedule, rows: list[tuple[int, ...]]
) -> tuple[Moment, ...]:
    moments = []
    now_ns = 0
    num_runs = [0] * len(graph.ops)
    for step, row in zip(schedule.steps, rows, strict=True):
        op = step.op if isinstance(step, Compute) else None
        duration_ns = 0
        if op is not None:
            num_runs[op] += 1
            duration_ns = graph.ops[op].runtime_ns
        moments.append(
            Moment(
                start_ns=now_ns,
                duration_ns=duration_ns,
                op=op,
                run=0 if op is None else num_runs[op],
                kind_bytes=row,
                total_bytes=sum(row),
            )
        )
        now_ns += duration_ns
    return tuple(moments)
