"""The calls a user makes: optimize, plan, get_plan, restore."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch.nn.parallel import DistributedDataParallel

from autockpt.arguments import (
    check_module,
    check_signature,
    check_verify,
    checked_inputs,
    checked_request,
)
from autockpt.budget import Budget
from autockpt.dispatch.forward import OptimizedForward, optimized_forward
from autockpt.dispatch.ranks import refuse_spread
from autockpt.ladder.ladder import Ladder
from autockpt.ladder.planner import StepPlanner
from autockpt.ladder.rungs import rungs_of
from autockpt.ladder.step import StepToPlan
from autockpt.report.plan import Plan
from autockpt.torch_private.distributed import inside_data_parallel
from autockpt_solvers.attempt import Method

ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)


def optimize(
    model: ModuleT,
    budget: int | str | Budget,
    *,
    sample_args: tuple[Any, ...] = (),
    sample_kwargs: Mapping[str, Any] | None = None,
    loss_fn: Callable[[Any], torch.Tensor] | None = None,
    optimizer: torch.optim.Optimizer | str | None = None,
    method: str | Method = "auto",
    time_limit_s: float = 60.0,
    verify: bool = True,
) -> ModuleT:
    """Make a model's training step fit in a memory budget, bit for bit the same as before.

    The model is changed in place and returned; its type, parameters, ``state_dict`` and hooks stay.
    In ``eval()`` and under ``no_grad`` its own forward runs.

    Args:
        model: Any module that trains; of a DistributedDataParallel the module inside is optimized.
        budget: Bounds everything a training step holds: parameters, buffers, gradients, optimizer
            state, inputs, activations, transients and workspace. Bytes as an int, ``"8GB"``,
            ``"8GiB"``, ``"512MB"``, or ``"60%"`` of what the eager step peaks at.
        sample_args: Positional inputs of a typical step. With sample inputs the plan is made now;
            without, at the first training call, from its inputs.
        sample_kwargs: Keyword inputs of a typical step.
        loss_fn: Takes the model's output to a scalar loss, when the loss is computed outside of the
            model; it becomes part of the plan.
        optimizer: The optimizer, or its name ("adamw", "sgd", ...), whose state the budget must
            hold. Without one AdamW is assumed.
        method: Name of the solver's method, or a callable with the signature of one.
        time_limit_s: Ends the search for a better plan.
        verify: Try real steps first: compare with eager where that fits in memory, and hold the
            measured peak against the budget.

    Returns:
        ``model``.

    Raises:
        BudgetError: No plan fits; names the least budget that can be met, and why.
        CaptureError: The model cannot be captured, and lower rungs do not hold either, or it is
            compiled; says where and why.
        NotTrainableError: Nothing in the model requires grad.
        PeerError: Planning failed on another rank of a distributed run.
        VerificationError: A step was not bit-equal to eager's.
        TypeError: An argument of the wrong type, or inputs that the forward does not take.
        ValueError: A budget, method or optimizer that is not known.

    In every case of an error the model is as it was.
    """
    check_verify(verify)
    if isinstance(model, DistributedDataParallel):
        with inside_data_parallel(model):
            optimize(
                model.module,
                budget,
                sample_args=sample_args,
                sample_kwargs=sample_kwargs,
                loss_fn=loss_fn,
                optimizer=optimizer,
                method=method,
                time_limit_s=time_limit_s,
                verify=verify,
            )
        return model
    request = checked_request(model, budget, loss_fn, optimizer, method, time_limit_s)
    args, kwargs = checked_inputs(sample_args, sample_kwargs)
    before = model.__dict__.get("forward")
    original = before.original if isinstance(before, OptimizedForward) else model.forward
    forward = OptimizedForward(model, original, request, verify=verify)
    if args or kwargs:
        check_signature(original, args, kwargs)
        with _in_training(model):
            forward.prepare(args, kwargs)
    forward.install()
    return model


@contextlib.contextmanager
def _in_training(model: torch.nn.Module) -> Iterator[None]:
    """Training mode for a while, unless the model is in it: then parts of it may be in eval."""
    modes = [(module, module.training) for module in model.modules()]
    if not model.training:
        model.train()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def plan(
    model: torch.nn.Module,
    budget: int | str | Budget,
    *,
    sample_args: tuple[Any, ...] = (),
    sample_kwargs: Mapping[str, Any] | None = None,
    loss_fn: Callable[[Any], torch.Tensor] | None = None,
    optimizer: torch.optim.Optimizer | str | None = None,
    method: str | Method = "auto",
    time_limit_s: float = 60.0,
) -> Plan:
    """The plan that :func:`optimize` would follow, without touching the model.

    Model and inputs may be fake or meta tensors: then times are estimated, and nothing needs the
    memory of the model.

    Args:
        model: See :func:`optimize`; likewise for all others.
        budget: What a training step may hold.
        sample_args: Positional inputs of a step.
        sample_kwargs: Keyword inputs of a step.
        loss_fn: Takes the output to a loss.
        optimizer: The optimizer or its name.
        method: The solver's method.
        time_limit_s: Ends the search.

    Raises:
        TypeError: The sample inputs are not what the forward takes. Otherwise as
            :func:`optimize`.
    """
    request = checked_request(model, budget, loss_fn, optimizer, method, time_limit_s)
    args, kwargs = checked_inputs(sample_args, sample_kwargs)
    forward = model.__dict__.get("forward")
    original = forward.original if isinstance(forward, OptimizedForward) else model.forward
    check_signature(original, args, kwargs)
    refuse_spread(model)
    ladder = Ladder()
    step = StepToPlan(module=model, forward=original, args=args, kwargs=kwargs, request=request)
    with _in_training(model):
        return ladder.explained(ladder.descend(rungs_of(step, _only_planned)))


def _only_planned(planner: StepPlanner) -> Plan:
    plan = planner.plan().plan
    return plan.as_it_is() if plan.leaves_the_model else plan


def get_plan(model: torch.nn.Module) -> Plan | None:
    """The latest plan of an optimized model; None before its first plan, or when not optimized.

    Raises:
        TypeError: It is no module.
    """
    check_module(model)
    forward = optimized_forward(_inner(model))
    return None if forward is None else forward.latest_plan


def restore(model: ModuleT) -> ModuleT:
    """Take the rewrite back: the model runs its own forward again. Does nothing otherwise.

    Raises:
        TypeError: It is no module.
    """
    check_module(model)
    forward = optimized_forward(_inner(model))
    if forward is not None:
        forward.uninstall()
    return model


def _inner(model: torch.nn.Module) -> torch.nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model
