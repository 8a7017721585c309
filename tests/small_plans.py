"""Plans of a small step that recompute, made by the engine alone: no model is captured."""

from __future__ import annotations

import dataclasses

from autockpt.report.parts import FixedBytes
from autockpt.report.plan import Plan
from autockpt.report.timeline.breakdown import kept_outputs_bytes, module_rows, peak_parts
from autockpt.report.timeline.marked_ops import OPTIMIZER_STEP
from autockpt.report.timeline.places import Places, SourceLine
from autockpt_solvers import (
    ComputeGraph,
    Problem,
    Result,
    SolveStatus,
    baseline_schedule,
    simulate,
    solve,
)
from tests.solvers.graphs import Builder

MIB = 2**20
FIXED = FixedBytes(
    parameters_bytes=8 * MIB, buffers_bytes=0, optimizer_bytes=16 * MIB, inputs_bytes=MIB
)


def layers_graph(num_layers: int = 6, *, segment: str = "layer") -> ComputeGraph:
    """Layers of two operations: a wide value that is cheap to make, and a narrow one."""
    b = Builder()
    below = b.add("embed", sizes=(4 * MIB,), time=1000, segment="embed", recomputable=False)
    kept = []
    for k in range(num_layers):
        path = f"{segment}.{k}.mlp"
        wide = b.add(f"gelu_{k}", [below], (16 * MIB,), time=2000, segment=path)
        narrow = b.add(f"addmm_{k}", [wide], (4 * MIB,), time=9000, segment=path)
        kept.append((below, wide))
        below = narrow
    b.add("loss", [below], (4,), time=100, output=True)
    gradient = b.add("dloss", [below], (4 * MIB,), time=100, is_backward=True)
    for k, (low, wide) in reversed(list(enumerate(kept))):
        path = f"{segment}.{k}.mlp"
        b.add(f"dw_{k}", [gradient, wide], (MIB,), 9000, True, is_backward=True, segment=path)
        reads = [gradient, wide, low]
        fields = {"is_backward": True, "segment": path, "workspace_bytes": MIB}
        gradient = b.add(f"dx_{k}", reads, (4 * MIB,), 9000, **fields)
    b.add(OPTIMIZER_STEP, [gradient], (0,), 0, True, is_backward=True, workspace_bytes=MIB)
    return b.graph()


def planned(share: float = 0.5, *, segment: str = "layer", **fields: object) -> Plan:
    """A plan for a share of what the step needs beside what is fixed."""
    graph = layers_graph(segment=segment)
    baseline_bytes = simulate(graph, baseline_schedule(graph)).peak_bytes
    fixed_bytes = FIXED.total_bytes
    budget_bytes = fixed_bytes + round(share * baseline_bytes)
    problem = Problem(graph=graph, budget_bytes=budget_bytes, fixed_bytes=fixed_bytes)
    result = solve(problem, method="greedy")
    assert result.schedule is not None
    plan = _plan(graph, result, budget_bytes, fixed_bytes + baseline_bytes)
    return dataclasses.replace(plan, **fields)  # type: ignore[arg-type]


def _plan(graph: ComputeGraph, result: Result, budget_bytes: int, baseline_bytes: int) -> Plan:
    assert result.schedule is not None
    simulated = simulate(graph, result.schedule)
    names = ("my_model.py", "my_model.py", "losses.py")
    return Plan(
        budget_bytes=budget_bytes,
        predicted_peak_bytes=FIXED.total_bytes + simulated.peak_bytes,
        baseline_peak_bytes=baseline_bytes,
        minimum_peak_bytes=FIXED.total_bytes + 30 * MIB,
        minimum_bound_bytes=FIXED.total_bytes + 29 * MIB,
        baseline_step_ns=graph.total_runtime_ns,
        recompute_ns=result.recompute_ns,
        lower_bound_ns=result.recompute_ns // 2,
        status=SolveStatus.FEASIBLE,
        method="greedy",
        solve_time_s=0.1,
        fixed=FIXED,
        gradients_bytes=6 * MIB,
        outputs_bytes=kept_outputs_bytes(graph, frozenset()),
        optimizer_name="adamw",
        optimizer_assumed=False,
        cost_source="measured",
        device="cpu",
        num_graphs=1,
        rows=module_rows(graph, result.schedule, simulated),
        notes=("A note.",),
        peak_parts=tuple(peak_parts(graph, result.schedule, simulated, frozenset()).items()),
        graph=graph,
        schedule=result.schedule,
        places=Places(
            lines=tuple(
                SourceLine(file=file, line=10 + k, code=f"x = self.part_{k}(x)")
                for k, file in enumerate(names)
            ),
            of_ops=tuple(index % 3 for index in range(len(graph.ops))),
        ),
    )
