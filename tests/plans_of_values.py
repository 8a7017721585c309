"""Plans with chosen values; and honest ones, whose numbers are those of their schedule."""

from __future__ import annotations

import dataclasses
from typing import Any

from autockpt.report.parts import FixedBytes, ModuleRow
from autockpt.report.plan import Plan
from autockpt.report.timeline.breakdown import module_rows, peak_parts
from autockpt.report.timeline.places import NO_PLACES, Places, SourceLine
from autockpt_solvers import ComputeGraph, Op, SolveStatus, Storage, simulate, with_frees

MIB = 2**20


def row_of(module: str, **fields: int) -> ModuleRow:
    usual = {"saved_bytes": 0, "recomputed_bytes": 0, "recompute_ns": 0, "num_recomputed_ops": 0}
    return ModuleRow(module=module, **{**usual, **fields})


def plan_of(**fields: Any) -> Plan:
    graph = ComputeGraph(
        ops=(
            Op(name="embed", runtime_ns=5, reads=(), writes=(0,), workspace_bytes=3, region=0),
            Op(name="draw", runtime_ns=7, reads=(0,), writes=(1,), recomputable=False, segment="h"),
            Op(name="grad", runtime_ns=9, reads=(0, 1), writes=(2,), is_backward=True),
        ),
        storages=tuple(Storage(name=name, size_bytes=8) for name in "xyz"),
        outputs=(2,),
    )
    usual: dict[str, Any] = {
        "budget_bytes": 100 * MIB,
        "predicted_peak_bytes": 96 * MIB,
        "baseline_peak_bytes": 200 * MIB,
        "minimum_peak_bytes": 80 * MIB,
        "minimum_bound_bytes": 79 * MIB,
        "baseline_step_ns": 1_000_000_000,
        "recompute_ns": 120_000_000,
        "lower_bound_ns": 90_000_000,
        "status": SolveStatus.FEASIBLE,
        "method": "blocks",
        "solve_time_s": 1.25,
        "fixed": FixedBytes(
            parameters_bytes=20 * MIB,
            buffers_bytes=0,
            optimizer_bytes=40 * MIB,
            inputs_bytes=8192,
        ),
        "gradients_bytes": 20 * MIB,
        "optimizer_name": "AdamW",
        "optimizer_assumed": True,
        "cost_source": "measured",
        "device": "cpu",
        "num_graphs": 1,
        "rows": (
            row_of("embed", saved_bytes=3 * MIB),
            row_of("h.0.mlp", saved_bytes=MIB, recomputed_bytes=4 * MIB, num_recomputed_ops=2),
            row_of("h.1.mlp", saved_bytes=MIB, recomputed_bytes=4 * MIB, num_recomputed_ops=2),
            row_of("h.2.mlp", saved_bytes=5 * MIB),
        ),
        "notes": ("A note [with brackets].",),
        "peak_parts": (
            ("gradients", 20 * MIB),
            ("saved activations", 14 * MIB - 8192),
            ("workspace", 2 * MIB),
        ),
        "graph": graph,
        "schedule": with_frees(graph, [0, 1, 2]),
        "places": Places(
            lines=(SourceLine(file="m.py", line=3),), of_ops=(0, -1, -1), outside=(1,)
        ),
    }
    if fields.get("graph", graph) is None:
        usual["places"] = NO_PLACES
    return Plan(**{**usual, **fields})


def honest_plan(**fields: Any) -> Plan:
    """A plan whose numbers are those that its schedule gives, as what plans are read must be."""
    graph = ComputeGraph(
        ops=(
            Op(name="embed", runtime_ns=5, reads=(), writes=(0,), segment="embed"),
            Op(name="act", runtime_ns=7, reads=(0,), writes=(1,), segment="h"),
            Op(name="loss", runtime_ns=2, reads=(1,), writes=(2,), workspace_bytes=3),
            Op(name="grad", runtime_ns=9, reads=(0, 1), writes=(3,), is_backward=True),
        ),
        storages=tuple(Storage(name=name, size_bytes=8) for name in "xyzg"),
        outputs=(2, 3),
    )
    lines = (SourceLine(file="m.py", line=3),)
    step: dict[str, Any] = {
        "graph": graph,
        "schedule": with_frees(graph, [0, 1, 2, 1, 3]),
        "places": Places(lines=lines, of_ops=(0, -1, -1, -1), outside=(2,)),
    }
    plan = plan_of(**{**step, **fields})
    if plan.graph is None or plan.schedule is None:
        return plan
    timeline = simulate(plan.graph, plan.schedule)
    outside = frozenset(plan.places.outside)
    peak_bytes = plan.fixed.total_bytes + timeline.peak_bytes
    derived: dict[str, Any] = {
        "baseline_step_ns": plan.graph.total_runtime_ns,
        "recompute_ns": timeline.recompute_ns,
        "lower_bound_ns": 0,
        "rows": module_rows(plan.graph, plan.schedule, timeline),
        "peak_parts": tuple(peak_parts(plan.graph, plan.schedule, timeline, outside).items()),
        "predicted_peak_bytes": peak_bytes,
        "minimum_peak_bytes": peak_bytes,
        "minimum_bound_bytes": peak_bytes,
    }
    return dataclasses.replace(plan, **{**derived, **fields})
