"""`autockpt demo`: trains a model eagerly and optimized, side by side on this machine."""

from __future__ import annotations

import copy
import dataclasses
import platform
import time

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

import autockpt
from autockpt.budget import format_bytes
from autockpt.command.side_by_side import Comparison, Times, Trainer, compare, time_in_turns
from autockpt.report import tables as report
from autockpt.report.plan import Plan
from autockpt.zoo import Example
from autockpt_solvers import Method


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """A demo: the model and how to optimize it.

    Attributes:
        example: The model and its batch; a copy of the model is trained too.
        name: The name to print.
        budget: The budget, as `autockpt.optimize` takes it.
        method: The solver's method, or its name.
        time_limit_s: Time limit of the search.
        num_steps: Number of training steps before the comparison.
        progress: Whether to show what planning does.
    """

    example: Example
    name: str
    budget: str
    method: str | Method = "auto"
    time_limit_s: float = 20.0
    num_steps: int = 3
    progress: bool = True

    def run(self, console: Console) -> bool:
        """Trains, measures, compares and prints; returns whether both are equal bit for bit."""
        example = self.example
        num_parameters = sum(p.numel() for p in example.model.parameters())
        console.print(
            f"[bold]{self.name}[/], {num_parameters / 1e6:.1f}M parameters, AdamW, "
            f"on {_device_name(example)}, torch {torch.__version__}"
        )
        eager = Trainer(example)
        optimized = Trainer(dataclasses.replace(example, model=copy.deepcopy(example.model)))
        start = time.perf_counter()
        autockpt.optimize(
            optimized.model,
            self.budget,
            sample_args=example.args,
            sample_kwargs=dict(example.kwargs),
            loss_fn=example.loss_fn,
            optimizer=optimized.optimizer,
            method=self.method,
            time_limit_s=self.time_limit_s,
            progress=self.progress,
        )
        planning_s = time.perf_counter() - start
        plan = autockpt.get_plan(optimized.model)
        assert plan is not None
        with console.status(f"training {self.num_steps} steps of each ..."):
            comparison = compare(eager.train(self.num_steps), optimized.train(self.num_steps))
            peaks = (eager.peak_bytes(), optimized.peak_bytes())
        with console.status("timing ..."):
            times = time_in_turns(eager, optimized, num_pairs=5)
        console.print()
        timelines = None if plan.schedule is None else plan.timeline()
        around = report.Surroundings(timelines=timelines)
        console.print(report.render(plan, around, width=console.width))
        console.print()
        console.print(_table(plan, peaks, times))
        console.print()
        console.print(f"planned and verified in {planning_s:.1f} s")
        self._print_equality(console, comparison)
        return comparison.bit_equal

    def _print_equality(self, console: Console, comparison: Comparison) -> None:
        what = "losses, gradients, parameters, buffers, optimizer state, random state"
        if comparison.bit_equal:
            console.print(
                f"bit-equal: [bold green]yes[/] ({comparison.num_tensors} tensors after "
                f"{self.num_steps} steps: {what})"
            )
            return
        console.print(
            f"bit-equal: [bold red]no[/] ({len(comparison.differing)} of {comparison.num_tensors} "
            f"tensors after {self.num_steps} steps; at most by {comparison.max_difference:g})"
        )
        for name in comparison.differing[:5]:
            console.print(Text(f"  {name}"))


def _table(plan: Plan, peaks: tuple[int, int], times: Times) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("one training step, measured")
    table.add_column("eager", justify="right")
    table.add_column("optimized", justify="right")
    table.add_column("")
    eager_bytes, optimized_bytes = peaks
    budget = "within" if optimized_bytes <= plan.budget_bytes else "[bold red]over[/]"
    table.add_row(
        "peak memory, everything counted",
        format_bytes(eager_bytes),
        format_bytes(optimized_bytes),
        f"{optimized_bytes / eager_bytes:.0%}, {budget} the budget of "
        f"{format_bytes(plan.budget_bytes)}",
    )
    table.add_row(
        "predicted",
        format_bytes(plan.baseline_peak_bytes),
        format_bytes(plan.predicted_peak_bytes),
    )
    table.add_row(
        "time",
        f"{times.first_ns / 1e6:.1f} ms",
        f"{times.second_ns / 1e6:.1f} ms",
        f"x{times.ratio:.3f}, median of {times.num_pairs} pairs",
    )
    return table


def _device_name(example: Example) -> str:
    device = next(example.model.parameters()).device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"
