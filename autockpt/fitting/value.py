"""The answer of `fit`, as a value."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
import torch

from autockpt.batch.largest import inputs_of
from autockpt.report.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A model and the inputs of a step, to compare with.

    Attributes:
        model: The model.
        args: Positional inputs of a step.
        kwargs: Keyword inputs.
        loss_fn: Maps the output to a loss.
    """

    model: torch.nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loss_fn: Callable[[Any], torch.Tensor] | None = None

    def of_size(self, make_inputs: Callable[[int], Any], size: int) -> Variant:
        """The same model on the inputs of another batch size."""
        args, kwargs = inputs_of(make_inputs, size)
        return dataclasses.replace(self, args=args, kwargs=kwargs)


class WayKind(StrEnum):
    """How a training step runs; the value is how it reads."""

    AS_IT_IS = "as it is"
    LAYERED = "every layer checkpointed"
    PLANNED = "with a plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to run a training step on the device.

    Attributes:
        name: How it runs.
        peak_bytes: Peak of a step.
        fits: Whether that is within the budget.
        step_ns: Estimated time of a step, the optimizer's included.
        overhead: Recomputation as a share of the step's operations.
        largest_batch: The largest batch that fits this way; None if it was not asked for. The
            search for it ends at 2^20.
    """

    name: WayKind
    peak_bytes: int
    fits: bool
    step_ns: int
    overhead: float
    largest_batch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that you could change, and what it would bring.

    Attributes:
        what: The change, to read.
        peak_bytes: Peak of a step as it is then.
        planned_bytes: Peak with a plan for the budget; None if no plan fits.
        overhead: Recomputation of that plan; None if no plan fits.
        step_ns: Time of a step, as it is if that fits, otherwise with the plan; None if neither
            fits.
    """

    what: str
    peak_bytes: int
    planned_bytes: int | None
    overhead: float | None
    step_ns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FitValues:
    """Whether a training step fits a device.

    Attributes:
        device: Name of the device.
        title: Its name in the vendor's sheet.
        memory_bytes: Its memory.
        context_bytes: What the driver takes of it, beside all budgets; an assumption.
        budget_bytes: What a step may use of it.
        batch: Number of samples in a step; None if it is not known.
        samples: What the batch counts: ``"sequences"``, ``"images"`` or ``"samples"``.
        tokens: Tokens of a sample, if it is a sequence.
        ways: As it is, with every layer checkpointed if there are layers, and with a plan if one
            fits.
        parts: Bytes by kind at the peak: with the plan if the step fits with it alone, otherwise as
            it is. They add up to that peak.
        minimum_bytes: The smallest budget that a plan is known for.
        minimum_bound_bytes: No plan of its class needs less.
        best_batch: The batch with the highest predicted throughput that fits; None if not asked.
        best_batch_step_ns: Time of a step of it.
        changes: What would help, the most helpful first.
        plan: The plan for the budget; None if none fits.
        notes: What else you should know, one sentence each.
    """

    device: str
    title: str
    memory_bytes: int
    context_bytes: int
    budget_bytes: int
    batch: int | None
    samples: str
    tokens: int | None
    ways: tuple[Way, ...]
    parts: tuple[tuple[str, int], ...]
    minimum_bytes: int
    minimum_bound_bytes: int
    best_batch: int | None
    best_batch_step_ns: int | None
    changes: tuple[Change, ...]
    plan: Plan | None
    notes: tuple[str, ...] = ()

    @property
    def fits_as_it_is(self) -> bool:
        """Whether nothing needs to be recomputed."""
        return self.ways[0].fits

    @property
    def fits(self) -> bool:
        """Whether the step fits, as it is or with a plan."""
        return self.fits_as_it_is or self.plan is not None

    def to_json(self) -> str:
        """Returns all fields but the plan as JSON text; `plan.to_json` writes that."""
        values: dict[str, Any] = {
            field.name: msgspec.to_builtins(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name != "plan"
        }
        values |= {"fits": self.fits, "fits_as_it_is": self.fits_as_it_is}
        return json.dumps(values, indent=1) + "\n"
