"""`max_batch_size`: the largest batch whose training step fits a budget."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from autockpt import progress as progress_shown
from autockpt.api import get_plan, optimize, restore
from autockpt.arguments import check_bool, check_module, checked_request
from autockpt.batch.answer import BatchSize
from autockpt.batch.predicted import MOST_SAMPLES
from autockpt.batch.search import BatchSearch
from autockpt.budget import Budget, parse_budget
from autockpt.capture.fakes import holds_no_data
from autockpt.devices.device import Device
from autockpt.dispatch.device_budget import budget_on_device
from autockpt.dispatch.lookup import optimized_forward
from autockpt.errors import BudgetError, VerificationError
from autockpt.ladder.step import StepToPlan
from autockpt.profile.cost_model import CostModel
from autockpt.report.plan import Plan
from autockpt.request import Request
from autockpt.sample_step import sample_step
from autockpt.verify.inputs import input_leaves
from autockpt_solvers import Method
from autockpt_solvers.graph import check_integer


def max_batch_size(
    make_inputs: Callable[[int], Any],
    model: torch.nn.Module,
    budget: int | str | Budget,
    *,
    loss_fn: Callable[[Any], torch.Tensor] | None = None,
    optimizer: torch.optim.Optimizer | str | None = None,
    method: str | Method = "auto",
    time_limit_s: float | None = None,
    at_most: int = MOST_SAMPLES,
    verify: bool = True,
    progress: bool = True,
    device: str | os.PathLike[str] | Device | None = None,
    cost: str | CostModel | None = None,
) -> BatchSize:
    """Find the largest batch whose training step fits a budget, without trial and error.

    autockpt captures two small batches. The bytes of a step grow with the batch along a straight
    line, so these give the graph of every other batch, and a search over its plans predicts the
    answer. Then it captures and plans that batch, and checks that no plan fits for the next one. If
    the prediction is wrong, it captures further batches until one fits and the next does not.

    Args:
        make_inputs: Returns the inputs of a batch size: a dict of keyword inputs, a tuple of
            positional ones, ``(args, kwargs)``, or a tensor. The size may be any count that the
            inputs grow with, such as packed tokens.
        model: See :func:`optimize`, for all arguments that are not described here.
        budget: The memory for a training step: bytes, ``"8GB"``, ``"auto"`` or a share of the
            device, not a share of the eager peak.
        loss_fn: Maps the output to a loss.
        optimizer: The optimizer or its name.
        method: The solver's method.
        time_limit_s: When to end each search: for a plan of one size, and for the smallest
            budgets that the sizes to try are predicted from.
        at_most: The largest batch size to consider; 2^20 by default.
        verify: Run a real step of the answer and measure its peak, unless the model has no data or
            the device is not here. The model stays as it was.
        progress: Whether to show what the search does.
        device: A device that is not here, as for :func:`plan`.
        cost: What operations cost, as for :func:`optimize`.

    Returns:
        The batch size, its plan, and what limits the next one.

    Raises:
        BudgetError: Not even a batch of 1 fits.
        TypeError: ``make_inputs`` is not callable or returns something else.
        ValueError: The budget is a share, ``at_most`` is below 1, or nothing depends on the batch
            size. Otherwise as :func:`optimize`.
    """
    check_bool("progress", progress)
    check_bool("verify", verify)
    check_module(model)
    asked = _checked_budget(budget)
    if not callable(make_inputs):
        raise TypeError(
            f"make_inputs is a {type(make_inputs).__name__}; it must be a function of a batch size"
        )
    check_integer(at_most, "at_most")
    if at_most < 1:
        raise ValueError(f"at_most is {at_most}; it must be 1 or more")
    with progress_shown.planning(type(model).__name__, is_shown=progress):
        request = checked_request(
            model, asked, loss_fn, optimizer, method, time_limit_s, progress, device, cost
        )
        asked = budget_on_device(request, model, ((), {}))
        request = dataclasses.replace(request, budget=asked)
        budget_bytes = asked.resolve(0)
        search = BatchSearch(
            budget_bytes,
            lambda size: _step(model, request, make_inputs, size),
            method=method,
            at_most=at_most,
            time_limit_s=time_limit_s,
        )

        def follow(size: int, **how: Any) -> Plan:
            """The plan that real steps of a size followed; the model is as it was then."""
            args, kwargs = inputs_of(make_inputs, size)
            try:
                optimize(
                    model,
                    budget_bytes,
                    sample_args=args,
                    sample_kwargs=kwargs,
                    loss_fn=loss_fn,
                    optimizer=optimizer,
                    cost=cost,
                    **how,
                )
                followed = get_plan(model)
            finally:
                restore(model)
            assert followed is not None
            return followed

        def measured(size: int) -> Plan:
            try:
                return follow(size, plan=search.plans[size])
            except VerificationError:
                # It needs a little more than predicted: plan with less, as training would.
                return follow(size, method=method, time_limit_s=time_limit_s)

        size = search.largest()
        notes: tuple[str, ...] = ()
        if verify and device is None and not _holds_no_data(model, make_inputs):
            if optimized_forward(model) is None:
                size = _verified(measured, search, size)
            else:
                notes = ("not verified: the model is optimized already; restore it first",)
        if not size:
            raise search.errors[1]
        answer = _answer(search, size, notes)
        progress_shown.finish(f"the largest batch is {size}")
    return answer


def _checked_budget(budget: int | str | Budget) -> Budget:
    asked = parse_budget(budget)
    if asked.bytes is None and not asked.is_of_device:
        raise ValueError(
            f'budget is {asked}, which depends on the batch size; give bytes, such as "8GB"'
        )
    return asked


@contextlib.contextmanager
def _step(
    model: torch.nn.Module, request: Request, make_inputs: Callable[[int], Any], size: int
) -> Iterator[StepToPlan]:
    args, kwargs = inputs_of(make_inputs, size)
    with sample_step(model, request, args, kwargs) as step:
        yield step


def inputs_of(
    make_inputs: Callable[[int], Any], size: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword inputs of a batch size.

    Raises:
        TypeError: The function returns something else.
    """
    made = make_inputs(size)
    match made:
        case torch.Tensor():
            return (made,), {}
        case Mapping():
            return (), dict(made)
        case ((tuple() | list()) as args, Mapping() as kwargs):
            return tuple(args), dict(kwargs)
        case tuple() | list():
            return tuple(made), {}
    raise TypeError(
        f"make_inputs({size}) returned a {type(made).__name__}; it must return a dict of keyword "
        "inputs, a tuple of positional inputs, (args, kwargs), or a tensor"
    )


def _holds_no_data(model: torch.nn.Module, make_inputs: Callable[[int], Any]) -> bool:
    tensors = [*model.parameters(), *model.buffers(), *input_leaves(inputs_of(make_inputs, 1))]
    return holds_no_data(tensors)


def _verified(measured: Callable[[int], Plan], search: BatchSearch, size: int) -> int:
    """Run real steps of a size, or of the largest one below it whose steps keep to the budget."""
    while size:
        if search.is_planned(size):
            try:
                search.plans[size] = measured(size)
                break
            except BudgetError as error:
                search.exceeded(size, error)
        size -= 1
    return size


def _answer(search: BatchSearch, size: int, notes: tuple[str, ...]) -> BatchSize:
    error = search.errors.get(size + 1)
    return BatchSize(
        batch_size=size,
        plan=search.plans[size],
        limit="" if error is None else str(error),
        limit_is_proven=error is not None and error.is_proven,
        next_minimum_bytes=0 if error is None else error.minimum_peak_bytes,
        num_captures=search.num_captures,
        is_affine=search.is_affine,
        verified_peak_bytes=search.plans[size].measured_peak_bytes,
        eager_batch_size=search.eager_size,
        checkpointed_batch_size=search.checkpointed_size,
        notes=notes,
    )
