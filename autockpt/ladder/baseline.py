"""What eager PyTorch needs for a step at its peak: predicted, or measured if graphs are a part."""

from __future__ import annotations

import dataclasses

from autockpt import progress
from autockpt.capture.captured import Capture
from autockpt.ladder.step import StepToPlan, eager_failures
from autockpt.lower.graph import Lowered
from autockpt.lower.problem import StepProblem
from autockpt.profile.optimizer import OptimizerMemory
from autockpt.verify.peak import available_bytes
from autockpt.verify.step import acts_on_parameters
from autockpt_solvers import baseline_schedule, simulate


def baseline_peak_bytes(
    step: StepToPlan, captured: Capture, lowered: Lowered, optimizer: OptimizerMemory
) -> int:
    """The peak of the eager step: its tensors, and the workspace that its operators add."""
    graph = lowered.graph
    kept_bytes = sum(graph.storages[storage].size_bytes for storage in graph.outputs)
    new_gradients_bytes = 0 if step.accumulates else captured.gradient_bytes
    after_bytes = max(new_gradients_bytes, kept_bytes) + optimizer.step_bytes
    after_bytes += step.loop.others.after_bytes
    fixed_bytes = lowered.fixed_bytes + step.older_gradients_bytes + step.buckets_bytes
    fixed_bytes += step.loop.others.beside_bytes
    if step.request.device is not None:
        fixed_bytes += step.request.device.workspace_bytes
    return fixed_bytes + max(running_bytes(captured, lowered), after_bytes)


def with_measured_eager(step: StepToPlan, captured: Capture, problem: StepProblem) -> StepProblem:
    """The same with the measured peak of eager's step, of which the graphs are only a part.

    Raises:
        CaptureError: The step fails.
    """
    fits = problem.baseline_peak_bytes < available_bytes(captured.device)
    if captured.is_fake or acts_on_parameters(step.module) or not fits:
        return problem
    eager = step.on(captured.device)
    progress.stage("running eager's step")
    with eager_failures(eager, stage="profile"):
        measured_bytes = problem.fixed_bytes + eager.record(warm_up=False).peak_bytes
    baseline_peak_bytes = max(problem.baseline_peak_bytes, measured_bytes)
    return dataclasses.replace(problem, baseline_peak_bytes=baseline_peak_bytes)


def running_bytes(captured: Capture, lowered: Lowered) -> int:
    """What eager's forward and backward need at their peak, with the workspace of operators."""
    *ops, optimizer_step = lowered.graph.ops
    ops = [*ops, dataclasses.replace(optimizer_step, workspace_bytes=0)]
    graph = dataclasses.replace(lowered.graph, ops=tuple(ops))
    none = baseline_schedule(graph)
    bare = dataclasses.replace(
        graph, ops=tuple(dataclasses.replace(op, workspace_bytes=0) for op in ops)
    )
    workspace_bytes = simulate(graph, none).peak_bytes - simulate(bare, none).peak_bytes
    return captured.eager_peak_bytes + workspace_bytes
