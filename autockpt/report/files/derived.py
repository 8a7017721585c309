"""Checks the numbers of a plan that was read against its graph and schedule.

Whoever edits a plan file cannot make it promise another peak or cost than the schedule has.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from autockpt.report.timeline.breakdown import kept_outputs_bytes, module_rows, peak_parts
from autockpt.report.timeline.places import Places
from autockpt.report.values import PlanValues
from autockpt_solvers import (
    ComputeGraph,
    MemoryTimeline,
    Schedule,
    SolveStatus,
    baseline_schedule,
    simulate,
)
from autockpt_solvers.bounds.peak import least_op_bytes

_PLANNED = (SolveStatus.OPTIMAL, SolveStatus.FEASIBLE)


def check_laws(plan: PlanValues) -> None:
    """Raises ValueError unless the numbers of a plan can go together."""
    for what, is_so in _laws(plan).items():
        if not is_so:
            raise ValueError(what)


def check_derived(
    plan: PlanValues, graph: ComputeGraph, schedule: Schedule, places: Places
) -> None:
    """Checks that the numbers of a plan are those that its schedule gives.

    Args:
        plan: The plan's values.
        graph: Its graph.
        schedule: Its schedule.
        places: Where the graph's operations come from.

    Raises:
        ScheduleError: The schedule does not run.
        ValueError: A number is another one.
    """
    timeline = simulate(graph, schedule)
    for name, derived in _derived(plan, graph, schedule, timeline, places):
        given = getattr(plan, name)
        if given != derived:
            raise ValueError(f"{name} is {_shown(given)}, but its schedule gives {_shown(derived)}")
    parts_bytes = sum(size_bytes for _, size_bytes in plan.peak_parts)
    if plan.peak_parts and parts_bytes != timeline.peak_bytes:
        raise ValueError(
            f"peak_parts add up to {parts_bytes}, but its schedule needs {timeline.peak_bytes}"
        )
    _check_outputs(plan, graph, places)
    _check_peaks(plan, graph, timeline)
    _check_minimum(plan, graph, schedule, timeline)


def _laws(plan: PlanValues) -> dict[str, bool]:
    """What holds for the numbers of every plan, with or without a schedule."""
    is_met = plan.lower_bound_ns == plan.recompute_ns
    is_proven = plan.status is SolveStatus.OPTIMAL
    measured_bytes = plan.measured_peak_bytes
    always_bytes = plan.fixed.resting_bytes + plan.older_gradients_bytes
    # What a step was measured to need beyond its prediction is counted in the minimum too.
    most_bytes = max(plan.budget_bytes, plan.predicted_peak_bytes, measured_bytes or 0)
    return {
        f"status is {plan.status.value!r}, which no plan has": plan.status in _PLANNED,
        "lower_bound_ns is above recompute_ns": plan.lower_bound_ns <= plan.recompute_ns,
        "status is 'optimal', but lower_bound_ns is below recompute_ns": is_met or not is_proven,
        "minimum_bound_bytes is above minimum_peak_bytes": plan.minimum_bound_bytes
        <= plan.minimum_peak_bytes,
        "minimum_peak_bytes is above the budget and the peaks": plan.minimum_peak_bytes
        <= most_bytes,
        "baseline_peak_bytes is below the memory of the whole step": plan.baseline_peak_bytes
        >= always_bytes,
        "measured_peak_bytes is below the memory of the whole step": measured_bytes is None
        or measured_bytes >= always_bytes,
        "gradients_bytes is 0, but there is optimizer state, or gradients of an earlier backward": (
            plan.gradients_bytes > 0 or not plan.fixed.optimizer_bytes + plan.older_gradients_bytes
        ),
        f"num_graphs is {plan.num_graphs} on the rung {plan.rung!r}": _has_graphs(plan),
        "cheaper_budgets must be larger budgets that cost less, in rising order": _are_cheaper(
            plan
        ),
    }


def _has_graphs(plan: PlanValues) -> bool:
    if plan.rung in ("whole", "blocks"):
        return plan.num_graphs > 0
    return plan.rung != "checkpoint" or plan.num_graphs == 0


def _are_cheaper(plan: PlanValues) -> bool:
    points = ((plan.budget_bytes, plan.recompute_ns), *plan.cheaper_budgets)
    return all(
        smaller[0] < larger[0] and smaller[1] > larger[1]
        for smaller, larger in itertools.pairwise(points)
    )


def _derived(
    plan: PlanValues,
    graph: ComputeGraph,
    schedule: Schedule,
    timeline: MemoryTimeline,
    places: Places,
) -> Iterator[tuple[str, object]]:
    yield "baseline_step_ns", graph.total_runtime_ns
    yield "recompute_ns", timeline.recompute_ns
    yield "rows", module_rows(graph, schedule, timeline)
    if places.of_ops or places.outside:  # otherwise nobody knows which ops are not the model's
        if plan.rung == "eager" and not plan.peak_parts:
            return
        outside = frozenset(places.outside)
        yield "peak_parts", tuple(peak_parts(graph, schedule, timeline, outside).items())


def _check_outputs(plan: PlanValues, graph: ComputeGraph, places: Places) -> None:
    if not places.of_ops and not places.outside:
        return  # nobody knows which ops are not the model's
    each_bytes = kept_outputs_bytes(graph, frozenset(places.outside))
    is_of_calls = plan.outputs_bytes % max(1, each_bytes) == 0 and plan.outputs_bytes >= each_bytes
    has_others = plan.fixed.other_calls_bytes > 0
    if plan.outputs_bytes != each_bytes and not (has_others and each_bytes and is_of_calls):
        raise ValueError(
            f"outputs_bytes is {plan.outputs_bytes}, but its graph keeps {each_bytes} for each call"
        )


def _check_minimum(
    plan: PlanValues, graph: ComputeGraph, schedule: Schedule, timeline: MemoryTimeline
) -> None:
    """Checks the smallest budget of a plan for which nobody searched for a smaller one."""
    is_searched = plan.minimum_bound_bytes > 0 or plan.fixed.other_calls_bytes > 0
    is_as_it_is = schedule.compute_order == baseline_schedule(graph).compute_order
    if is_searched or not is_as_it_is or not plan.peak_parts or plan.rung == "checkpoint":
        return
    own_bytes = plan.fixed.total_bytes + plan.older_gradients_bytes + timeline.peak_bytes
    if plan.minimum_peak_bytes < own_bytes:
        raise ValueError(
            f"minimum_peak_bytes is {plan.minimum_peak_bytes}, but nothing was searched, and the "
            f"plan itself needs {own_bytes}"
        )


def _check_peaks(plan: PlanValues, graph: ComputeGraph, timeline: MemoryTimeline) -> None:
    fixed_bytes = plan.fixed.total_bytes + plan.older_gradients_bytes
    peak_bytes = fixed_bytes + timeline.peak_bytes
    known = [peak_bytes]
    if plan.leaves_the_model:
        # Eager PyTorch overwrites fewer values than the graph.
        known.append(max(peak_bytes, plan.baseline_peak_bytes))
    if plan.rung == "eager" and not plan.peak_parts and plan.measured_peak_bytes is not None:
        known.append(plan.measured_peak_bytes)
    if plan.predicted_peak_bytes not in known:
        raise ValueError(
            f"predicted_peak_bytes is {plan.predicted_peak_bytes}, but its schedule needs "
            f"{peak_bytes}"
        )
    if plan.rung == "checkpoint" or known[-1] != peak_bytes:
        return
    least_bytes = plan.fixed.resting_bytes + plan.older_gradients_bytes + least_op_bytes(graph)
    for name in ("minimum_peak_bytes", "baseline_peak_bytes"):
        given_bytes = getattr(plan, name)
        if given_bytes < least_bytes:
            raise ValueError(
                f"{name} is {given_bytes}, but one operation of its graph needs {least_bytes}"
            )


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
