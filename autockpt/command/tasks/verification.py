"""Real steps of a model, eager and optimized: bits, measured peaks, times."""

from __future__ import annotations

import copy
import dataclasses
import json
import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import autockpt
from autockpt.budget import Budget, format_bytes
from autockpt.command.running import exits
from autockpt.experiments.side_by_side import Comparison, Times, Trainer, compare, time_in_turns
from autockpt.report.plan import Plan
from autockpt.report.words.against_eager import against_eager
from autockpt.report.words.inert import inert
from autockpt.zoo import Example

_NUM_NAMED = 5
_NUM_PAIRS = 5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What real steps have shown.

    Attributes:
        plan: The plan that the optimized model follows.
        device: The kind of device, `"cpu"` or another.
        num_steps: How many steps both were trained.
        eager_peak_bytes: Measured peak of an eager step, everything counted.
        optimized_peak_bytes: Measured peak of an optimized step.
        times: The times of steps, in turns.
        comparison: What training left, compared bit by bit.
        planning_s: How long planning took.
    """

    plan: Plan
    device: str
    num_steps: int
    eager_peak_bytes: int
    optimized_peak_bytes: int
    times: Times
    comparison: Comparison
    planning_s: float

    @property
    def code(self) -> int:
        """The exit code: bits that differ are a bug, a peak above the budget does not fit."""
        if not self.comparison.bit_equal:
            return exits.BUG
        fits = self.optimized_peak_bytes <= self.plan.budget_bytes
        return exits.FITS if fits else exits.DOES_NOT_FIT

    def render(self) -> Group:
        """Returns the answer for a rich console."""
        return Group(self._headline(), Text(""), self._table(), Text(""), *self._bits())

    def _headline(self) -> Text:
        fits = self.optimized_peak_bytes <= self.plan.budget_bytes
        same = self.comparison.bit_equal
        peak, budget = format_bytes(self.optimized_peak_bytes), format_bytes(self.plan.budget_bytes)
        beside = against_eager(
            self.optimized_peak_bytes, self.eager_peak_bytes, self.times.ratio - 1
        )
        word = ("verified", "bold green") if fits and same else ("failed", "bold red")
        return Text.assemble(
            word,
            f": peak {peak} {'within' if fits else 'over'} {budget} {beside}, "
            f"{'the same bits' if same else 'other bits'}",
        )

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
        table.add_column("one step, measured")
        for name in ("eager", "optimized"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        share = self.optimized_peak_bytes / max(1, self.eager_peak_bytes)
        table.add_row(
            "peak memory",
            format_bytes(self.eager_peak_bytes),
            format_bytes(self.optimized_peak_bytes),
            f"{share:.0%}, everything counted",
        )
        table.add_row(
            "predicted",
            format_bytes(self.plan.baseline_peak_bytes),
            format_bytes(self.plan.predicted_peak_bytes),
            "",
        )
        table.add_row(
            "processor time" if self.device == "cpu" else "time",
            f"{self.times.first_ns / 1e6:.1f} ms",
            f"{self.times.second_ns / 1e6:.1f} ms",
            f"x{self.times.ratio:.3f} ({self.times.least_ratio:.2f} to "
            f"{self.times.most_ratio:.2f})",
        )
        return table

    def _bits(self) -> list[RenderableType]:
        made = Text(f"planned and verified in {self.planning_s:.1f} s")
        found, steps = self.comparison, f"after {self.num_steps} steps"
        what = "losses, gradients, parameters, buffers, optimizer state, random state"
        if found.bit_equal:
            text = f" ({found.num_tensors} tensors {steps}: {what})"
            return [made, Text.assemble("bit-equal: ", ("yes", "bold green"), text)]
        text = (
            f" ({len(found.differing)} of {found.num_tensors} tensors {steps}; at most by "
            f"{found.max_difference:g})"
        )
        named = [Text(f"  {inert(name)}") for name in found.differing[:_NUM_NAMED]]
        return [made, Text.assemble("bit-equal: ", ("no", "bold red"), text), *named]

    def to_json(self) -> str:
        """Returns the figures as JSON text."""
        return json.dumps(self.values(), indent=1) + "\n"

    def values(self) -> dict[str, Any]:
        """Returns the figures as plain values."""
        return {
            "budget_bytes": self.plan.budget_bytes,
            "rung": self.plan.rung,
            "num_steps": self.num_steps,
            "bit_equal": self.comparison.bit_equal,
            "num_tensors": self.comparison.num_tensors,
            "differing": list(self.comparison.differing),
            "eager_peak_bytes": self.eager_peak_bytes,
            "optimized_peak_bytes": self.optimized_peak_bytes,
            "predicted_eager_peak_bytes": self.plan.baseline_peak_bytes,
            "predicted_peak_bytes": self.plan.predicted_peak_bytes,
            "eager_step_ns": self.times.first_ns,
            "optimized_step_ns": self.times.second_ns,
            "time_ratio": self.times.ratio,
            "least_time_ratio": self.times.least_ratio,
            "most_time_ratio": self.times.most_ratio,
            "clock": "processor" if self.device == "cpu" else "device",
            "predicted_overhead": self.plan.overhead,
            "planning_s": self.planning_s,
        }


def verify(
    example: Example,
    budget: Budget,
    *,
    optimizer: str | None,
    num_steps: int,
    stage: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Verified:
    """Trains a model eagerly and a copy of it optimized, and compares.

    Args:
        example: The model and its batch.
        budget: The budget.
        optimizer: The name of the optimizer that steps both; AdamW by default.
        num_steps: Number of training steps before the comparison.
        stage: Is told what is done, in words.
        options: Other arguments of `autockpt.optimize`.
    """
    name = optimizer or "adamw"
    eager = Trainer(example, optimizer=name)
    copied = dataclasses.replace(example, model=copy.deepcopy(example.model))
    optimized = Trainer(copied, optimizer=name)
    start_s = time.perf_counter()
    autockpt.optimize(
        optimized.model,
        budget,
        sample_args=example.args,
        sample_kwargs=dict(example.kwargs),
        loss_fn=example.loss_fn,
        optimizer=optimized.optimizer,
        **options,
    )
    planning_s = time.perf_counter() - start_s
    stage(f"training {num_steps} steps of each ...")
    comparison = compare(eager.train(num_steps), optimized.train(num_steps))
    stage("measuring peaks ...")
    peaks = (eager.peak_bytes(), optimized.peak_bytes())
    stage("timing ...")
    times = time_in_turns(eager, optimized, num_pairs=_NUM_PAIRS)
    plan = autockpt.get_plan(optimized.model)
    assert plan is not None
    return Verified(
        plan=plan,
        device=eager.device.type,
        num_steps=num_steps,
        eager_peak_bytes=peaks[0],
        optimized_peak_bytes=peaks[1],
        times=times,
        comparison=comparison,
        planning_s=planning_s,
    )


def described(example: Example, name: str, optimizer: str | None) -> Text:
    """Returns what is trained, and on what, on a line."""
    num_parameters = sum(p.numel() for p in example.model.parameters())
    device = next(example.model.parameters()).device
    place = f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"
    if device.type == "cuda":
        place = torch.cuda.get_device_name(device)
    return Text.assemble(
        (inert(name), "bold"),
        f", {_count(num_parameters)} parameters, {optimizer or 'adamw'}, on {place}, "
        f"torch {torch.__version__}",
    )


def _count(number: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)
