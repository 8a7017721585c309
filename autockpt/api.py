"""The calls a user makes: optimize, plan, get_plan, restore."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch.nn.parallel import DistributedDataParallel

from autockpt import progress as progress_shown
from autockpt.arguments import (
    check_bool,
    check_module,
    check_signature,
    checked_budget,
    checked_inputs,
    checked_plan,
    checked_request,
    misspelt_inputs,
)
from autockpt.budget import Budget
from autockpt.devices.device import Device
from autockpt.dispatch.forward import OptimizedForward
from autockpt.dispatch.lookup import optimized_methods
from autockpt.dispatch.methods import checked_methods
from autockpt.dispatch.plan_only import plan_only
from autockpt.loop import Loop
from autockpt.profile.cost_model import CostModel
from autockpt.report.plan import Plan
from autockpt.report.words.sentences import cost_warning
from autockpt.request import Request
from autockpt.sample_step import in_training, sample_step, with_gradients
from autockpt.torch_private.distributed import inside_data_parallel
from autockpt.user_warnings import warn_user
from autockpt_solvers import Method

ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)


def optimize(
    model: ModuleT,
    budget: int | str | Budget | None = None,
    *,
    sample_args: tuple[Any, ...] = (),
    sample_kwargs: Mapping[str, Any] | None = None,
    loss_fn: Callable[[Any], torch.Tensor] | None = None,
    optimizer: torch.optim.Optimizer | str | None = None,
    method: str | Method = "auto",
    cost: str | CostModel | None = None,
    time_limit_s: float | None = None,
    verify: bool = True,
    progress: bool = True,
    plan: Plan | str | os.PathLike[str] | None = None,
    keeps_outputs: bool | None = None,
    methods: tuple[str, ...] | None = None,
    watch: bool = True,
) -> ModuleT:
    """Make a model's training step fit in a memory budget, bit for bit the same as before.

    autockpt changes the model in place and returns it. Its type, parameters, ``state_dict`` and
    hooks stay the same. Under ``no_grad`` its own forward runs, and in ``eval()`` too, unless you
    train in that mode.

    Args:
        model: Any module that trains. For a DistributedDataParallel, the module inside is
            optimized.
        budget: The memory for everything in a training step: parameters, buffers, gradients,
            optimizer state, inputs, activations, temporary tensors and workspace. Bytes as an int,
            ``"8GB"``, ``"8GiB"``, ``"512MB"``, or ``"60%"`` of the eager step's peak. On a device
            with memory of its own also ``"auto"``, the memory available to the step less a margin;
            ``"80% of free"``, a share of that memory; or ``"80% of device"``.
        sample_args: Positional inputs of a typical step. With sample inputs autockpt plans now;
            without, at the first training call, from its inputs.
        sample_kwargs: Keyword inputs of a typical step.
        loss_fn: Maps the model's output to a scalar loss, if you compute the loss outside of the
            model. It becomes part of the plan; autockpt calls it only while it plans.
        optimizer: The optimizer, or its name ("adamw", "sgd", ...), whose state counts. Without one
            autockpt assumes AdamW.
        method: The name of a solver method, or a callable with the signature of
            :class:`autockpt_solvers.Method`.
        cost: What operations cost: a function from an :class:`Operation` to its time in nanoseconds
            or to ``(time_ns, workspace_bytes)``, or the name of an entry point of
            ``autockpt.costs``. By default autockpt measures.
        time_limit_s: When to end the search for a better plan, in seconds. By default it ends once
            it has stalled, and 60 seconds after planning began at the latest, unless capturing the
            step takes longer than 20 seconds.
        verify: Try the plan on real steps first: compare it with eager if that fits in memory, and
            compare the measured peak with the budget.
        progress: Show on a terminal, in a notebook or in the log what planning does, if it takes
            more than two seconds.
        plan: A plan to follow, or the file that :meth:`Plan.save` wrote: nothing is solved, but the
            step is captured, compared with eager and measured as usual. ``budget`` may be left out
            then. Other kinds of call, such as inputs of other sizes, are planned when they come.
        keeps_outputs: Whether your loop keeps the model's outputs, apart from single numbers such
            as the loss, until the backward ends. By default autockpt plans for outputs that are
            kept, and plans again if it sees at the first backward that they were freed.
        methods: Names of other methods that your loop calls and that return a loss, or a dict with
            one: their calls are planned like calls of the forward. Sample inputs and ``plan`` are
            for the first of them; ``loss_fn`` is for the forward only. By default that is
            ``training_step`` of a LightningModule with automatic optimization, whose sample inputs
            are the forward's; ``()`` is for none.
        watch: Measure steps now and then while you train, on devices with memory of their own. If
            one takes more than the budget, or runs out of memory, autockpt warns and plans again
            with less. A forward that ran out of memory is run again if it has changed nothing.

    Returns:
        ``model``.

    Raises:
        BudgetError: No plan fits. Has the smallest workable budget and a breakdown of it.
        CaptureError: The model cannot be captured and no fallback works, or it is compiled. Has
            where and why.
        CostError: The cost model raised, or returned something that is no cost.
        InternalError: autockpt has a bug, and no fallback works.
        NotTrainableError: Nothing in the model requires grad.
        PlanMismatchError: The given plan is for another step. Says what differs.
        PeerError: Planning failed on another rank of a distributed run.
        VerificationError: A step is not bit-equal to eager's.
        TypeError: An argument has the wrong type, or the forward does not take the inputs.
        ValueError: The budget, the method, the cost model or the optimizer is unknown, or the model
            has no such method as one in ``methods``.

    After an error the model is as it was.
    """
    check_bool("verify", verify)
    check_bool("progress", progress)
    check_bool("watch", watch)
    if keeps_outputs is not None:
        check_bool("keeps_outputs", keeps_outputs)
    is_parallel = isinstance(model, DistributedDataParallel)
    with inside_data_parallel(model) if is_parallel else contextlib.nullcontext():
        inner = _inner(model)
        check_module(inner)
        with progress_shown.planning(type(inner).__name__, is_shown=progress):
            given = checked_plan(plan)
            asked = checked_budget(budget, given)
            request = checked_request(
                inner, asked, loss_fn, optimizer, method, time_limit_s, progress, cost=cost
            )
            request = dataclasses.replace(
                request, given=given, keeps_outputs=keeps_outputs, watch=watch
            )
            names = checked_methods(inner, methods)
            _install(
                inner,
                request,
                checked_inputs(sample_args, sample_kwargs),
                names,
                are_asked_for=methods is not None,
                verify=verify,
            )
    return model


def _install(
    model: torch.nn.Module,
    request: Request,
    inputs: tuple[tuple[Any, ...], Mapping[str, Any]],
    methods: tuple[str, ...],
    *,
    are_asked_for: bool,
    verify: bool,
) -> None:
    """Let a module follow plans; make the first one now if there are inputs."""
    args, kwargs = inputs
    before = {n: v for n, v in model.__dict__.items() if isinstance(v, OptimizedForward)}
    own = {name: each.original for name, each in before.items()}
    forward = OptimizedForward(
        model,
        own.get("forward", model.forward),
        dataclasses.replace(request, given=None) if methods and are_asked_for else request,
        verify=verify,
    )
    optimized = [forward]
    for name in methods:
        # A loss function is for the outputs of the forward; a method returns its loss.
        is_first = are_asked_for and name == methods[0]
        given = request.given if is_first else None
        optimized.append(
            OptimizedForward(
                model,
                own.get(name) or getattr(model, name),
                dataclasses.replace(request, loss_fn=None, given=given),
                verify=verify,
                name=name,
                beside=forward,
                is_asked_for=are_asked_for,
            )
        )
    if args or kwargs:
        first = optimized[1] if methods and are_asked_for else forward
        check_signature(first.original, args, kwargs, of=first.name)
        with in_training(model), misspelt_inputs(model, kwargs):
            first.prepare(args, kwargs)
    for name in before.keys() - {each.name for each in optimized}:
        before[name].uninstall()
    for each in optimized:
        each.install()
    for each in before.values():
        each.retire()


def plan(
    model: torch.nn.Module,
    budget: int | str | Budget,
    *,
    sample_args: tuple[Any, ...] = (),
    sample_kwargs: Mapping[str, Any] | None = None,
    loss_fn: Callable[[Any], torch.Tensor] | None = None,
    optimizer: torch.optim.Optimizer | str | None = None,
    method: str | Method = "auto",
    time_limit_s: float | None = None,
    progress: bool = True,
    device: str | os.PathLike[str] | Device | None = None,
    accumulates: bool = False,
    cost: str | CostModel | None = None,
) -> Plan:
    """Return the plan that :func:`optimize` would follow, without touching the model.

    The model and its inputs may be fake or meta tensors: autockpt then estimates times, and needs
    none of the model's memory. autockpt keeps the plan on disk, and returns a plan that it or
    :func:`optimize` kept for the same model, inputs and arguments without solving again.

    Args:
        model: See :func:`optimize`, for all arguments.
        budget: The memory for a training step.
        sample_args: Positional inputs of a step.
        sample_kwargs: Keyword inputs of a step.
        loss_fn: Maps the output to a loss.
        optimizer: The optimizer or its name.
        method: The solver's method.
        time_limit_s: When to end the search.
        progress: Whether to show what planning does.
        device: A device that is not here, such as ``"h100"``: the plan is for the operators that
            eager PyTorch runs there, with estimated times. Also a :class:`Device`, or a TOML file
            that describes one. By default the plan is for the device of the model.
        accumulates: Whether gradients add to those of an earlier backward.
        cost: What operations cost.

    Raises:
        TypeError: The forward does not take the sample inputs. Otherwise as :func:`optimize`.
        ValueError: The device is unknown. Otherwise as :func:`optimize`.
    """
    check_bool("progress", progress)
    check_bool("accumulates", accumulates)
    check_module(model)
    with progress_shown.planning(type(model).__name__, is_shown=progress):
        request = checked_request(
            model, budget, loss_fn, optimizer, method, time_limit_s, progress, device, cost
        )
        accumulating = with_gradients(model) if accumulates else contextlib.nullcontext()
        with accumulating, sample_step(model, request, sample_args, sample_kwargs) as step:
            made = plan_only(dataclasses.replace(step, loop=Loop(accumulates=accumulates)))
    if warning := cost_warning(made):
        warn_user(warning)
    return made


def get_plan(model: torch.nn.Module) -> Plan | None:
    """Return the latest plan of an optimized model; None if it has no plan, or is not optimized.

    Raises:
        TypeError: ``model`` is not a module.
    """
    check_module(model)
    planned = [each for each in optimized_methods(_inner(model)) if each.latest_plan is not None]
    return max(planned, key=lambda each: each.planned_at).latest_plan if planned else None


def restore(model: ModuleT) -> ModuleT:
    """Make an optimized model run its own forward again; other models do not change.

    Raises:
        TypeError: ``model`` is not a module.
    """
    check_module(model)
    for each in optimized_methods(_inner(model)):
        each.uninstall()
    return model


def _inner(model: torch.nn.Module) -> torch.nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model
