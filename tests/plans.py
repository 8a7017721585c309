"""A plan as a value, for tests that read, write or store plans and make none."""

from __future__ import annotations

from autockpt.report.parts import FixedBytes
from autockpt.report.plan import Plan
from autockpt_solvers import SolveStatus

PLAN = Plan(
    budget_bytes=100,
    predicted_peak_bytes=90,
    baseline_peak_bytes=200,
    minimum_peak_bytes=80,
    baseline_step_ns=1000,
    recompute_ns=100,
    lower_bound_ns=90,
    status=SolveStatus.FEASIBLE,
    method="ilp",
    solve_time_s=0.5,
    fixed=FixedBytes(
        parameters_bytes=1,
        buffers_bytes=0,
        optimizer_bytes=0,
        inputs_bytes=0,
    ),
    gradients_bytes=1,
    optimizer_name="sgd",
    optimizer_assumed=False,
    cost_source="measured",
    device="cpu",
    num_graphs=1,
    rows=(),
)
