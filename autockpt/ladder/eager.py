"""The plan of running the model as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from autockpt.errors import BudgetError, CaptureError, NotTrainableError
from autockpt.profile.optimizer import OptimizerMemory
from autockpt.report.parts import FixedBytes
from autockpt.report.plan import Plan
from autockpt.request import Request
from autockpt.torch_private.pytree import tree_leaves
from autockpt.verify.live_bytes import distinct_bytes
from autockpt.verify.step import Step, acts_on_parameters
from autockpt_solvers import SolveStatus


def eager_plan(
    module: torch.nn.Module,
    forward: Callable[..., Any],
    inputs: tuple[tuple[Any, ...], dict[str, Any]],
    request: Request,
    *,
    accumulates: bool,
    buckets_bytes: int,
) -> Plan:
    """The plan of running the model as it is, by a measured step.

    Raises:
        BudgetError: The step is over the budget.
        CaptureError: The step fails.
    """
    check_parameters_stay(module)
    device = device_of(module)
    step = Step(
        module=module,
        forward=forward,
        args=inputs[0],
        kwargs=inputs[1],
        loss_fn=request.loss_fn,
        device=device,
        accumulates=accumulates,
    )
    fixed = fixed_bytes(module, inputs, request.optimizer, buckets_bytes)
    older_bytes = distinct_bytes([p.grad for p in module.parameters() if accumulates])
    try:
        record = step.record(warm_up=False)
        step_bytes = max(record.peak_bytes, step.peak_bytes_of_other_draws(record))
    except CaptureError:
        raise
    except Exception as error:
        raise failing(module, error) from error
    peak_bytes = fixed.total_bytes + older_bytes + step_bytes
    budget_bytes = request.budget.resolve(peak_bytes)
    if peak_bytes > budget_bytes:
        raise BudgetError(budget_bytes=budget_bytes, minimum_peak_bytes=peak_bytes)
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
        gradients_bytes=gradients_bytes(module),
        optimizer_name=request.optimizer.name,
        optimizer_assumed=request.optimizer.is_assumed,
        cost_source="measured",
        device=str(device),
        num_graphs=0,
        rung="eager",
        rows=(),
        notes=request.optimizer.notes,
    )


def check_parameters_stay(module: torch.nn.Module) -> None:
    """Raise CaptureError if a step changes the parameters by itself."""
    if acts_on_parameters(module):
        raise CaptureError(
            where=type(module).__name__,
            reason="a step changes its parameters by itself (hooks, max_norm), so that none can be "
            "run to measure it",
        )


def device_of(module: torch.nn.Module) -> torch.device:
    """Return the device of the first parameter that requires grad, or raise NotTrainableError."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            return parameter.device
    raise NotTrainableError("no parameter requires grad")


def gradients_bytes(module: torch.nn.Module) -> int:
    """Return the bytes of all gradients together."""
    return sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)


def fixed_bytes(
    module: torch.nn.Module, inputs: Any, optimizer: OptimizerMemory, buckets_bytes: int
) -> FixedBytes:
    """What a step of a module on these inputs holds from its beginning to its end."""
    return FixedBytes(
        parameters_bytes=distinct_bytes(list(module.parameters())),
        buffers_bytes=distinct_bytes(list(module.buffers())),
        optimizer_bytes=optimizer.state_bytes,
        inputs_bytes=distinct_bytes(tree_leaves(inputs)),
        communication_bytes=buckets_bytes,
    )


def failing(module: torch.nn.Module, error: Exception) -> CaptureError:
    """Return the error that reports a forward that fails on the given inputs."""
    return CaptureError(
        where=type(module).__name__,
        reason=f"its forward fails on these inputs: {type(error).__name__}: {error}",
    )
