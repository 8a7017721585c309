"""Timelines: what is in memory at each moment adds up to what the simulator says."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import autockpt
from autockpt.report.page.listing import listing
from autockpt.report.plan import Plan
from autockpt.report.timeline.making import timelines
from autockpt.report.timeline.places import Places
from autockpt_solvers import Compute, ComputeGraph, Problem, baseline_schedule, simulate, solve
from tests.plans import PLAN
from tests.small_plans import MIB, planned
from tests.solvers.graphs import Builder, graphs


@given(graphs(), st.floats(0.3, 1.0))
def test_moments_add_up_to_what_the_simulator_says(graph: ComputeGraph, share: float) -> None:
    budget_bytes = max(1, int(share * simulate(graph, baseline_schedule(graph)).peak_bytes))
    result = solve(Problem(graph=graph, budget_bytes=budget_bytes), method="greedy")
    schedule = result.schedule or baseline_schedule(graph)
    simulated = simulate(graph, schedule)
    fixed_bytes = PLAN.fixed.total_bytes
    values = dataclasses.replace(
        PLAN,
        predicted_peak_bytes=fixed_bytes + simulated.peak_bytes,
        baseline_peak_bytes=fixed_bytes + 2 * graph.most_bytes,
    )
    places = Places(outside=tuple(range(0, len(graph.ops), 3)))
    both = timelines(values, graph, schedule, places)
    line = both.plan
    assert [m.total_bytes - fixed_bytes for m in line.moments] == list(simulated.live_bytes)
    assert line.peak == simulated.peak_step
    assert line.peak_bytes == values.predicted_peak_bytes
    assert both.eager.peak_bytes == values.baseline_peak_bytes
    assert line.duration_ns == simulated.recompute_ns + sum(
        graph.ops[op].runtime_ns for op in set(schedule.compute_order)
    )
    for each in (both.eager, line):
        for at, moment in enumerate(each.moments):
            alive = each.alive(at)
            assert sum(a.size_bytes for a in alive) == moment.total_bytes == sum(moment.kind_bytes)
            by_kind: dict[str, int] = {}
            for a in alive:
                by_kind[a.kind] = by_kind.get(a.kind, 0) + a.size_bytes
            assert by_kind == each.bytes_by_kind(at)
            sizes = [a.size_bytes for a in alive]
            assert sizes == sorted(sizes, reverse=True)
    saved_bytes = sum(graph.size(storage) for storage in simulated.saved)
    end = line.forward_end
    while end + 1 < len(line.moments) and line.moments[end + 1].op is None:
        end += 1
    if line.forward_end >= 0:
        assert line.moments[end].total_bytes >= fixed_bytes + saved_bytes


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        wide = self.up(values)
        wide = nn.functional.gelu(wide)
        return values + self.down(wide)


def _planned(**kwargs: object) -> Plan:
    model = nn.Sequential(*(_Block() for _ in range(4)))
    return autockpt.plan(
        model,
        kwargs.pop("budget", "80%"),  # type: ignore[arg-type]
        sample_args=(torch.randn(256, 16),),
        loss_fn=lambda output: output.square().mean(),
        progress=False,
        **kwargs,  # type: ignore[arg-type]
    )


def _line(text: str) -> int:
    source, first = inspect.getsourcelines(_Block.forward)
    return first + next(at for at, line in enumerate(source) if text in line)


@pytest.mark.parametrize("device", [None, "h100"])
def test_operations_know_their_source_line(device: str | None) -> None:
    """Of both passes, whether the step was traced or recorded for a device that is not here."""
    torch.manual_seed(0)
    plan = _planned(device=device, budget="100%" if device else "80%")
    graph, places = plan.graph, plan.places
    assert graph is not None
    lines = {"addmm": _line("self.up"), "gelu": _line("gelu"), "gelu_backward": _line("gelu")}
    for name, number in lines.items():
        at = next(i for i, op in enumerate(graph.ops) if op.name == name)
        line = places.line_of(at)
        assert line is not None
        assert line.file.endswith("test_timeline.py")
        assert line.line == number
        assert "wide = " in line.code
    known = sum(at >= 0 for at in places.of_ops)
    assert known >= len(graph.ops) - 4  # all but what stands for the loop


def test_the_timelines_of_a_step_have_its_peaks_and_its_ledger() -> None:
    torch.manual_seed(0)
    plan = _planned()
    assert plan.recompute_ns > 0
    both = plan.timeline()
    assert both.plan.peak_bytes == plan.predicted_peak_bytes
    assert both.eager.peak_bytes == plan.baseline_peak_bytes
    ledger = {kind: size_bytes for kind, size_bytes in plan.ledger.items() if size_bytes}
    assert both.plan.bytes_by_kind(both.plan.peak) == ledger
    assert both.eager.duration_ns == plan.baseline_step_ns
    assert both.plan.duration_ns == plan.baseline_step_ns + plan.recompute_ns
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert repr(both.plan).startswith(f"<Timeline: {len(both.plan.moments)} moments in ")
    assert again.timeline().plan.alive(3) == both.plan.alive(3)
    runs = [m.run for m in both.plan.moments if m.run]
    assert sum(run > 1 for run in runs) == plan.num_recomputed_ops
    largest = both.plan.alive(both.plan.peak)[0]
    assert largest.line is not None or largest.op is None
    assert isinstance(both.plan.schedule.steps[both.plan.forward_end], Compute)


def test_markers_beside_several_tensors_have_a_name() -> None:
    """An operation with two results and a marker without a byte had no timeline."""
    b = Builder()
    first = b.add("split", sizes=(8, 8, 0), time=5)
    b.add("use", [first, first + 1, first + 2], (4,), 5, True)
    b.add("grad", [first], (4,), 5, True, is_backward=True)
    graph = b.graph()
    schedule = baseline_schedule(graph)
    line = timelines(PLAN, graph, schedule, Places()).plan
    assert [line.name_of(storage) for storage in range(3)] == ["split[0]", "split[1]", "split"]
    names = [alive.name for alive in line.alive(0)]
    assert names == ["split[0]", "split[1]", "parameters"]
    assert "del split[1]" in listing(line)
    assert "del split," not in listing(line)


def test_eager_is_never_above_its_measured_peak() -> None:
    """Calls measured alone need more than a step that was measured as a whole."""
    b = Builder()
    first = b.add("call", sizes=(8,), time=5, workspace_bytes=100)
    b.add("grad", [first], (4,), 5, True, is_backward=True, workspace_bytes=40)
    graph = b.graph()
    values = dataclasses.replace(PLAN, baseline_peak_bytes=PLAN.fixed.total_bytes + 58)
    both = timelines(values, graph, baseline_schedule(graph), Places())
    assert both.plan.peak_bytes == PLAN.fixed.total_bytes + 108
    totals = [moment.total_bytes - PLAN.fixed.total_bytes for moment in both.eager.moments]
    assert totals == [58, 52, 4]
    assert sum(alive.size_bytes for alive in both.eager.alive(0)) == values.baseline_peak_bytes


def test_several_calls_before_one_backward_are_there_all_the_time() -> None:
    """What the other calls keep differs between eager and the plan."""
    plan = planned()
    fixed = dataclasses.replace(plan.fixed, other_calls_bytes=3 * MIB)
    several = dataclasses.replace(
        plan,
        fixed=fixed,
        predicted_peak_bytes=plan.predicted_peak_bytes + 3 * MIB,
        baseline_peak_bytes=plan.baseline_peak_bytes + 5 * MIB,
    )
    both = several.timeline()
    assert both.plan.peak_bytes == several.predicted_peak_bytes
    assert both.eager.peak_bytes == several.baseline_peak_bytes
    assert both.plan.bytes_by_kind(0)["other calls"] == 3 * MIB
    assert both.eager.bytes_by_kind(0)["other calls"] == 5 * MIB
    assert "What other budgets cost" not in several.to_html()  # a curve is for one call


def test_a_plan_without_a_capture_has_no_timeline() -> None:
    with pytest.raises(ValueError, match="has no timeline: nothing was captured"):
        PLAN.timeline()
