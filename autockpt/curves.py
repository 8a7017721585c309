"""`pareto`: what each of many budgets costs for one model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from autockpt import progress as progress_shown
from autockpt.arguments import check_bool, check_module, checked_request
from autockpt.budget import Budget
from autockpt.devices.device import Device
from autockpt.dispatch.device_budget import budget_on_device
from autockpt.ladder.ladder import Ladder
from autockpt.ladder.planner import StepPlanner
from autockpt.ladder.rungs import rungs_of
from autockpt.profile.cost_model import CostModel
from autockpt.report.curve.search import TIME_LIMIT_S, checked_budgets
from autockpt.report.curve.value import Curve
from autockpt.report.plan import Plan
from autockpt.sample_step import sample_step
from autockpt_solvers import Method


def pareto(
    model: torch.nn.Module,
    budgets: int | Sequence[int | str | Budget] | None = None,
    *,
    sample_args: tuple[Any, ...] = (),
    sample_kwargs: Mapping[str, Any] | None = None,
    loss_fn: Callable[[Any], torch.Tensor] | None = None,
    optimizer: torch.optim.Optimizer | str | None = None,
    method: str | Method = "auto",
    time_limit_s: float | None = None,
    progress: bool = True,
    device: str | os.PathLike[str] | Device | None = None,
    cost: str | CostModel | None = None,
) -> Curve:
    """Return what each of many budgets costs, without touching the model.

    The step is captured once, and one search serves all budgets. The model and its inputs may be
    fake or meta tensors.

    Args:
        model: See :func:`optimize`, for all arguments that are not described here.
        budgets: The budgets, each as for :func:`optimize`; or how many to choose between the
            smallest workable one and the eager peak, 20 by default.
        sample_args: Positional inputs of a step.
        sample_kwargs: Keyword inputs of a step.
        loss_fn: Maps the output to a loss.
        optimizer: The optimizer or its name.
        method: The solver's method.
        time_limit_s: When to end the search, in seconds, for all budgets together; 8 by default.
            It counts from when the smallest budget is known.
        progress: Whether to show what the search does.
        device: A device that is not here, as for :func:`plan`.
        cost: What operations cost, as for :func:`optimize`.

    Returns:
        The curve. Points that no plan fits are included and say so.

    Raises:
        TypeError: A budget has the wrong type, or the forward does not take the sample inputs.
        ValueError: A budget, the method, the cost model or the optimizer is unknown.
        CostError: As :func:`optimize`.
        CaptureError: The model cannot be captured, nor can calls of its modules be checkpointed.
        NotTrainableError: Nothing in the model requires grad.
    """
    check_bool("progress", progress)
    check_module(model)
    wanted = checked_budgets(budgets)
    limit_s = TIME_LIMIT_S if time_limit_s is None else time_limit_s
    with progress_shown.planning(type(model).__name__, is_shown=progress):
        request = checked_request(
            model, "100%", loss_fn, optimizer, method, limit_s, progress, device, cost
        )
        # The step is captured as it is; the search for the curve uses the method.
        method, request = request.method, dataclasses.replace(request, method="none")
        if not isinstance(wanted, int):
            inputs = (sample_args, sample_kwargs or {})
            wanted = tuple(
                budget_on_device(dataclasses.replace(request, budget=each), model, inputs)
                for each in wanted
            )
        ladder = Ladder()
        with sample_step(model, request, sample_args, sample_kwargs) as step:
            made = ladder.explained(ladder.descend(rungs_of(step, _unplanned)))
        curve = made.curve(wanted, method=method, time_limit_s=limit_s)
        progress_shown.finish(f"found the curve of {len(curve.points)} budgets")
    return curve


def _unplanned(planner: StepPlanner) -> Plan:
    return planner.untouched()
