"""`fit`: whether a training step fits a device, and what would help."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autockpt import progress as progress_shown
from autockpt.arguments import check_bool, check_module
from autockpt.batch.predicted import MOST_SAMPLES
from autockpt.budget import Budget
from autockpt.devices.device import Device
from autockpt.devices.lookup import find_device
from autockpt.devices.usable import budget_of
from autockpt.errors import CaptureError, NotTrainableError, internal_errors
from autockpt.fitting.answer import Fit
from autockpt.fitting.batches import Batches
from autockpt.fitting.larger import on_larger_device
from autockpt.fitting.parts import parts_of
from autockpt.fitting.planning import change, helpful, planned, ways
from autockpt.fitting.recording import Recording
from autockpt.fitting.step import SizedStep
from autockpt.fitting.value import Variant, Way
from autockpt.ladder.graphs import GraphPlanner
from autockpt.profile.cost_model import CostModel
from autockpt_solvers.graph import check_integer


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
        budget: What a step may use, as for :func:`optimize`; by default the device's memory without
            the driver's context.
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
        ValueError: The device is unknown, ``batch`` is below 1, or the budget is a share of the
            eager peak or more than the device has.
        TypeError: The forward does not take the sample inputs, or ``make_inputs`` is not callable.
    """
    check_bool("progress", progress)
    check_module(model)
    if batch is not None:
        check_integer(batch, "batch")
        if batch < 1:
            raise ValueError(f"batch is {batch}; it must be 1 or more")
    if make_inputs is not None and not callable(make_inputs):
        raise TypeError(
            f"make_inputs is a {type(make_inputs).__name__}; it must be a function of a batch size"
        )
    target = find_device(device)
    budget_bytes = budget_of(budget, target)
    with progress_shown.planning(type(model).__name__, is_shown=progress):
        own = Variant(model=model, args=sample_args, kwargs=sample_kwargs or {}, loss_fn=loss_fn)
        recording = Recording(
            device=target,
            budget_bytes=budget_bytes,
            optimizer=optimizer,
            progress=progress,
            cost=cost,
        )
        planner = recording.planner(own)
        step = recording.sized(own, planner)
        size = batch or _first_dimension(own)
        batches = None
        if make_inputs is not None and size:

            def of_size(other: int) -> SizedStep:
                return recording.step(own.of_size(make_inputs, other))

            progress_shown.stage("recording other batches")
            batches = Batches.around(size, step, of_size)
        progress_shown.stage("recording what would help")
        others, notes = _recorded(variants or {}, recording)
        larger = None
        if step.peak_bytes > target.usable_bytes:
            larger = on_larger_device(
                planner,
                lambda known: recording.sized(own, known),
                lambda other: dataclasses.replace(recording, device=other).planner(own),
            )
        with internal_errors("prediction"):
            found = planned(planner, step, batches, size, budget_bytes)
            progress_shown.stage("predicting batches")
            every_way = ways(step, found.plan, batches, budget_bytes, size)
            best = None
            if batches is not None:
                most = max(way.largest_batch or 0 for way in every_way)
                best = batches.best(budget_bytes, most=most)
            progress_shown.stage("computing what would help")
            changes = [
                *found.changes,
                *(change(what, other, other.planned(budget_bytes)) for what, other in others),
            ]
            if larger is not None:
                changes.append(change(f"a {larger.device.title}", larger, larger.as_it_is))
            return Fit(
                device=target.name,
                title=target.title,
                memory_bytes=target.memory_bytes,
                context_bytes=target.context_bytes,
                budget_bytes=budget_bytes,
                batch=size,
                samples=_samples(own),
                tokens=step.num_tokens // size if size and step.num_tokens else None,
                ways=every_way,
                parts=parts_of(step, None if every_way[0].fits else found.plan),
                minimum_bytes=found.minimum_bytes,
                minimum_bound_bytes=found.minimum_bound_bytes,
                best_batch=None if best is None else best[0],
                best_batch_step_ns=None if best is None else best[1],
                changes=helpful(changes, step, found.plan),
                plan=found.plan,
                notes=(*_notes(target, planner), *_of_batches(every_way), *notes),
            )


def _of_batches(every_way: tuple[Way, ...]) -> tuple[str, ...]:
    if all((way.largest_batch or 0) < MOST_SAMPLES for way in every_way):
        return ()
    return (f"the search for the largest batch ends at {MOST_SAMPLES}; more may fit",)


def _recorded(
    variants: Mapping[str, Callable[[], Variant]], recording: Recording
) -> tuple[list[tuple[str, SizedStep]], tuple[str, ...]]:
    """The steps of variants by name, and a note for each that this model cannot have."""
    steps: list[tuple[str, SizedStep]] = []
    notes: list[str] = []
    for what, make in variants.items():
        try:
            variant = make()
        except Exception as refusal:  # noqa: BLE001 - whatever it is, the answer does without it
            notes.append(f"{what}: not for this model: {_first_line(refusal)}")
            continue
        try:
            steps.append((what, recording.step(variant)))
        except (CaptureError, NotTrainableError, TypeError, ValueError) as failure:
            notes.append(f"{what}: cannot be recorded: {_first_line(failure)}")
    return steps, tuple(notes)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


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
