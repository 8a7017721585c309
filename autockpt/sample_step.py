"""The training step that sample inputs describe, checked and in training mode, ready to plan."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from autockpt.arguments import check_signature, checked_inputs, misspelt_inputs
from autockpt.dispatch.device_budget import budget_on_device
from autockpt.dispatch.forward import OptimizedForward
from autockpt.dispatch.ranks import refuse_spread
from autockpt.ladder.step import StepToPlan
from autockpt.lower.solving_time import SolvingTime
from autockpt.request import Request


@contextlib.contextmanager
def sample_step(
    model: torch.nn.Module,
    request: Request,
    sample_args: tuple[Any, ...],
    sample_kwargs: Mapping[str, Any] | None,
) -> Iterator[StepToPlan]:
    """Check sample inputs, and put the model into training mode while its step is planned.

    Args:
        model: The model; if it is optimized, its own forward counts.
        request: What is asked of the plan.
        sample_args: Positional inputs of a step.
        sample_kwargs: Keyword inputs of a step.

    Yields:
        The step.

    Raises:
        CaptureError: Some of its parameters are spread over ranks.
        TypeError: The forward does not take the inputs.
        ValueError: The budget depends on a device's memory, and there is none or nothing is left.
    """
    args, kwargs = checked_inputs(sample_args, sample_kwargs)
    forward = model.__dict__.get("forward")
    original = forward.original if isinstance(forward, OptimizedForward) else model.forward
    check_signature(original, args, kwargs)
    refuse_spread(model)
    budget = budget_on_device(request, model, (args, kwargs))
    request = dataclasses.replace(request, budget=budget)
    step = StepToPlan(
        module=model,
        forward=original,
        args=args,
        kwargs=kwargs,
        request=request,
        solving=SolvingTime(ends_early=request.ends_early),
    )
    with in_training(model), misspelt_inputs(model, kwargs):
        yield step


@contextlib.contextmanager
def in_training(model: torch.nn.Module) -> Iterator[None]:
    """Put the model into training mode; if it is already, its parts may stay in eval mode."""
    modes = [(module, module.training) for module in model.modules()]
    if not model.training:
        model.train()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, was_training in modes:
            module.training = was_training


@contextlib.contextmanager
def with_gradients(model: torch.nn.Module) -> Iterator[None]:
    """Give parameters that have no gradient one, as an earlier backward does; take it back."""
    without = [p for p in model.parameters() if p.requires_grad and p.grad is None]
    try:
        for parameter in without:
            parameter.grad = torch.empty_like(parameter)
        yield
    finally:
        for parameter in without:
            parameter.grad = None
