"""The lowest rung: the plan that runs the model as it is."""

from __future__ import annotations

from autockpt import progress
from autockpt.errors import BudgetError
from autockpt.ladder.step import StepToPlan, eager_failures
from autockpt.report.kinds import MemoryKind
from autockpt.report.plan import Plan
from autockpt_solvers import SolveStatus


def eager_plan(step: StepToPlan) -> Plan:
    """The plan that runs the model as it is, from a measured step.

    Raises:
        BudgetError: The step exceeds the budget.
        CaptureError: The step fails.
        InternalError: A bug in autockpt.
        NotTrainableError: No parameter requires grad, and no input does.
    """
    run = step.runnable()
    fixed = step.fixed
    progress.stage("running eager's step")
    with eager_failures(run, stage="verify"):
        record = run.record(warm_up=False)
        step_bytes = max(record.peak_bytes, run.peak_bytes_of_other_draws(record))
    peak_bytes = fixed.total_bytes + step.older_gradients_bytes + step_bytes
    budget_bytes = step.request.budget.resolve(peak_bytes)
    if peak_bytes > budget_bytes:
        raise BudgetError(
            budget_bytes=budget_bytes,
            minimum_peak_bytes=peak_bytes,
            composition={
                **fixed.by_kind,
                MemoryKind.OLDER_GRADIENTS: step.older_gradients_bytes,
                MemoryKind.WHOLE_STEP: step_bytes,
            },
        )
    optimizer = step.request.optimizer
    return Plan(
        budget_bytes=budget_bytes,
        predicted_peak_bytes=peak_bytes,
        baseline_peak_bytes=peak_bytes,
        minimum_peak_bytes=peak_bytes,
        measured_peak_bytes=peak_bytes,
        baseline_step_ns=0,
        recompute_ns=0,
        lower_bound_ns=0,
        status=SolveStatus.FEASIBLE,
        method="none",
        solve_time_s=0.0,
        fixed=fixed,
        gradients_bytes=step.gradients_bytes,
        older_gradients_bytes=step.older_gradients_bytes,
        optimizer_name=optimizer.name,
        optimizer_assumed=optimizer.is_assumed,
        cost_source="measured",
        device=str(run.device),
        num_graphs=0,
        rung="eager",
        rows=(),
        notes=optimizer.notes,
    )
