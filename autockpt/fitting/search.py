"""`fit`: whether a training step fits a device, and what would help."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from autockpt import progress as progress_shown
from autockpt.arguments import check_bool, check_module, checked_request
from autockpt.budget import Budget, parse_budget
from autockpt.devices.device import Device
from autockpt.devices.lookup import find_device
from autockpt.errors import BudgetError, CaptureError
from autockpt.fitting.answer import Fit
from autockpt.fitting.batches import Batches
from autockpt.fitting.changes import larger_device, of_loss, of_optimizer
from autockpt.fitting.parts import parts_of
from autockpt.fitting.step import Cost, SizedStep, planned_with_other_optimizers
from autockpt.fitting.value import Change, Variant, Way
from autockpt.ladder.graphs import GraphPlanner
from autockpt.profile.cost_model import CostModel
from autockpt.report.plan import Plan
from autockpt.request import Request
from autockpt.sample_step import sample_step
from autockpt_solvers import baseline_schedule

_LIMIT_S = 10.0  # of the search for the plan; those for changes are shorter


def fit(
    model: torch.nn.Module,
    device: str | os.PathLike[str] | Device,
    *,
    budget: int | str | Budget | None = None,
    sample_args: tuple[Any, ...] = (),
    sample_kwargs: Mapping[str, Any] | None = None,
    loss_fn: Callable[[Any], torch.Tensor] | None = None,
    optimizer: torch.optim.Optimizer | str | None = None,
    batch: int | None = None,
    make_inputs: Callable[[int], Any] | None = None,
    variants: Mapping[str, Callable[[], Variant]] | None = None,
    progress: bool = True,
    cost: str | CostModel | None = None,
) -> Fit:
    """Return whether a training step fits a device, what it costs there and what would help.

    Nothing runs, and the device need not be here. Model and inputs may be meta tensors.

    Args:
        model: See :func:`optimize`, for all arguments that are not described here.
        device: The device: a name such as ``"h100"``, a TOML file or a :class:`Device`.
        budget: What a step may use; by default all of the device's memory but its context.
        sample_args: Positional inputs of a step.
        sample_kwargs: Keyword inputs of a step.
        loss_fn: Maps the output to a loss.
        optimizer: The optimizer or its name.
        batch: Number of samples in the inputs; by default their first dimension.
        make_inputs: Returns the inputs of a batch size, as for :func:`max_batch_size`. With it, the
            answer has the largest batches.
        variants: Changes of your own to compare with, by name: each returns a model and inputs.
        progress: Whether to show what it does.
        cost: What operations cost, as for :func:`optimize`.

    Raises:
        CaptureError: A step of the model cannot be recorded.
        ValueError: The device is unknown, or the budget is a share.
        TypeError: The forward does not take the sample inputs.
    """
    check_bool("progress", progress)
    check_module(model)
    target = find_device(device)
    budget_bytes = _budget_bytes(budget, target)

    def asked(of: torch.nn.Module, loss: Callable[[Any], torch.Tensor] | None) -> Request:
        return checked_request(
            of, budget_bytes, loss, optimizer, "auto", _LIMIT_S, progress, target, cost
        )

    with progress_shown.planning(type(model).__name__, is_shown=progress):
        own = Variant(model=model, args=sample_args, kwargs=sample_kwargs or {}, loss_fn=loss_fn)
        request = asked(model, loss_fn)
        planner = _captured(own, request)
        step = _sized(planner, own, target)
        plan, error = _plan(planner)
        size = batch or _first_dimension(own)
        batches = None
        if make_inputs is not None and size:

            def captured(of: int) -> SizedStep:
                variant = own.of_size(make_inputs, of)
                return _sized(_captured(variant, request), variant, target)

            progress_shown.stage("predicting other batches")
            batches = Batches.around(size, step, captured)
        ways = _ways(step, plan, batches, budget_bytes)
        best = None
        if batches is not None:
            most = max(way.largest_batch or 0 for way in ways)
            best = batches.best(budget_bytes, most=most)
        progress_shown.stage("computing what would help")
        changes = list(_of_optimizers(step, plan, budget_bytes))
        notes = _notes(target, planner)
        others = list(of_loss(step, vocabulary=_vocabulary(model)))
        for what, make in (variants or {}).items():
            variant = make()
            try:
                other = _captured(variant, asked(variant.model, variant.loss_fn))
            except CaptureError as failure:
                notes = (*notes, f"{what}: cannot be recorded: {failure}")
                continue
            others.append((what, _sized(other, variant, target)))
        if batches is not None and size and size > 1:
            others.append((f"a batch of {size // 2}", batches.step(size // 2)))
        changes += [_weighed(what, changed, budget_bytes) for what, changed in others]
        changes += _of_larger_device(target, step)
        schedule = baseline_schedule(step.problem.graph)
        if not ways[0].fits and plan is not None and plan.schedule is not None:
            schedule = plan.schedule
        return Fit(
            device=target.name,
            title=target.title,
            memory_bytes=target.memory_bytes,
            budget_bytes=budget_bytes,
            batch=size,
            samples=_samples(own),
            tokens=step.num_tokens // size if size and step.num_tokens else None,
            ways=ways,
            parts=parts_of(step.problem, schedule, target),
            minimum_bytes=plan.minimum_peak_bytes if plan else error.minimum_peak_bytes,
            minimum_bound_bytes=plan.minimum_bound_bytes if plan else error.lower_bound_bytes,
            best_batch=None if best is None else best[0],
            best_batch_step_ns=None if best is None else best[1],
            changes=tuple(_helpful(changes, step, plan)),
            plan=plan,
            notes=notes,
        )


def _budget_bytes(budget: int | str | Budget | None, device: Device) -> int:
    if budget is None:
        return device.usable_bytes
    asked = parse_budget(budget)
    if asked.bytes is None:
        raise ValueError(f'budget is {asked}; give an amount of memory, such as "40GB"')
    return asked.bytes


def _captured(variant: Variant, request: Request) -> GraphPlanner:
    with sample_step(variant.model, request, variant.args, variant.kwargs) as step:
        return GraphPlanner.capture(step)


def _sized(planner: GraphPlanner, variant: Variant, device: Device) -> SizedStep:
    trained = [p for p in variant.model.parameters() if p.requires_grad]
    ids = variant.kwargs.get("input_ids")
    return SizedStep(
        problem=planner.problem,
        device=device,
        num_trained=sum(p.numel() for p in trained),
        num_tokens=ids.numel() if isinstance(ids, torch.Tensor) else 0,
    )


def _plan(planner: GraphPlanner) -> tuple[Plan | None, BudgetError]:
    """The plan for the budget, or why there is none."""
    try:
        made = planner.plan().plan
    except BudgetError as error:
        return None, error
    nothing = BudgetError(budget_bytes=made.budget_bytes, minimum_peak_bytes=0)
    return (made.as_it_is() if made.leaves_the_model else made), nothing


def _ways(
    step: SizedStep, plan: Plan | None, batches: Batches | None, budget_bytes: int
) -> tuple[Way, ...]:
    ways = [
        Way(
            name="as it is",
            peak_bytes=step.peak_bytes,
            fits=step.peak_bytes <= budget_bytes,
            step_ns=step.step_ns(),
            overhead=0.0,
            largest_batch=None if batches is None else batches.largest_as_it_is(budget_bytes),
        )
    ]
    layered = step.layered()
    if layered is not None:
        schedule, peak_bytes, recompute_ns = layered
        largest = None if batches is None else batches.largest_of(schedule, budget_bytes)
        ways.append(
            Way(
                name="every layer checkpointed",
                peak_bytes=peak_bytes,
                fits=peak_bytes <= budget_bytes,
                step_ns=step.step_ns(recompute_ns),
                overhead=step.overhead(recompute_ns),
                largest_batch=largest,
            )
        )
    if plan is not None:
        ways.append(
            Way(
                name="with a plan",
                peak_bytes=plan.predicted_peak_bytes,
                fits=True,
                step_ns=step.step_ns(plan.recompute_ns),
                overhead=plan.overhead,
                largest_batch=None if batches is None else batches.largest_planned(budget_bytes),
            )
        )
    return tuple(ways)


def _of_optimizers(step: SizedStep, plan: Plan | None, budget_bytes: int) -> Iterator[Change]:
    """What other optimizers bring."""
    named = list(of_optimizer(step))
    too_large = [changed for _, changed in named if changed.peak_bytes > budget_bytes]
    costs = planned_with_other_optimizers(too_large, budget_bytes)
    found = dict(zip(map(id, too_large), costs, strict=True))
    for what, changed in named:
        if id(changed) not in found:
            yield _change(what, changed, Cost(peak_bytes=changed.peak_bytes, recompute_ns=0))
            continue
        cost = found[id(changed)]
        # The step's own plan serves a step that keeps less.
        if cost is not None and plan is not None and plan.recompute_ns < cost.recompute_ns:
            cost = Cost(peak_bytes=cost.peak_bytes, recompute_ns=plan.recompute_ns)
        yield _change(what, changed, cost)


def _weighed(what: str, step: SizedStep, budget_bytes: int) -> Change:
    """What a step would take after a change."""
    if step.peak_bytes <= budget_bytes:
        return _change(what, step, Cost(peak_bytes=step.peak_bytes, recompute_ns=0))
    return _change(what, step, step.planned(budget_bytes))


def _change(what: str, step: SizedStep, cost: Cost | None) -> Change:
    return Change(
        what=what,
        peak_bytes=step.peak_bytes,
        planned_bytes=None if cost is None else cost.peak_bytes,
        overhead=None if cost is None else step.overhead(cost.recompute_ns),
        step_ns=None if cost is None else step.step_ns(cost.recompute_ns),
    )


def _vocabulary(model: torch.nn.Module) -> int:
    """Number of classes of the logits, as the model's configuration says; 0 if it does not."""
    size = getattr(getattr(model, "config", None), "vocab_size", 0)
    return size if isinstance(size, int) else 0


def _of_larger_device(device: Device, step: SizedStep) -> list[Change]:
    if step.peak_bytes <= device.usable_bytes:
        return []
    larger = larger_device(device, step.peak_bytes)
    if larger is None:
        return []
    return [
        Change(
            what=f"a {larger.title}",
            peak_bytes=step.peak_bytes,
            planned_bytes=step.peak_bytes,
            overhead=0.0,
            step_ns=None,
        )
    ]


def _helpful(changes: list[Change], step: SizedStep, plan: Plan | None) -> list[Change]:
    """The changes that need less memory or less time, those that fit as they are first."""
    now = 1.0 if plan is None else plan.overhead
    useful = [
        change
        for change in changes
        if change.peak_bytes < step.peak_bytes or change.step_ns is None
        if change.overhead is None or change.overhead <= now
    ]
    return sorted(
        useful,
        key=lambda change: (
            change.planned_bytes is None,
            change.overhead if change.overhead is not None else 0.0,
            change.peak_bytes,
        ),
    )


def _first_dimension(variant: Variant) -> int | None:
    for value in (*variant.args, *variant.kwargs.values()):
        if isinstance(value, torch.Tensor) and value.dim():
            return value.size(0)
    return None


def _samples(variant: Variant) -> str:
    if "input_ids" in variant.kwargs:
        return "sequences"
    if variant.kwargs.keys() & {"pixel_values", "sample"}:
        return "images"
    return "samples"


def _notes(device: Device, planner: GraphPlanner) -> tuple[str, ...]:
    notes = [
        f"Times are estimated from {device.source}; attention, matrix products and memory at the "
        "share of the peak rates that published measurements reach.",
        "Workspaces of convolutions and fragments of the allocator are not counted.",
    ]
    if any("lstm" in op.name or "gru" in op.name for op in planner.problem.graph.ops):
        notes.append("Recurrent layers are those of the CPU; cuDNN's are not known.")
    return tuple(notes)
