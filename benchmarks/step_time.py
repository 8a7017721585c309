"""Predicted beside measured time of a step's forward and backward, for every model of the zoo.

    python benchmarks/step_time.py [--models gpt2,vit] [--budgets 50%,25%] [--output FILE]

Times are processor times of one thread, so that other programs on the machine change them little.
A model's plans take steps in turns; the shortest counts, as in the profile.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime as dt
import platform
import statistics
import time
import warnings
from pathlib import Path

import torch

import autockpt
from autockpt import zoo
from autockpt.budget import Budget

_NUM_STEPS = 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A model under one plan; times of a forward and backward in ns."""

    model: str
    budget: str
    predicted_ns: int
    measured_ns: int
    eager_ns: int
    overhead: float

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as it stands in the table."""
        return (
            self.model,
            self.budget,
            f"{self.predicted_ns / 1e6:.0f}",
            f"{self.measured_ns / 1e6:.0f}",
            f"{self.predicted_ns / self.measured_ns - 1:+.1%}",
            f"{self.overhead:+.1%}",
            f"{self.measured_ns / self.eager_ns - 1:+.1%}",
        )


def main() -> None:
    """Measure, print a table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--models", default="all")
    parser.add_argument("--budgets", default="50%,25%")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    names = zoo.names() if options.models == "all" else options.models.split(",")
    rows: list[Row] = []
    for name in names:
        rows += _rows(name, options.budgets.split(","))
        for row in rows[-3:]:
            print(" ".join(row.cells), flush=True)
        if options.output is not None:
            options.output.write_text(_document(rows), encoding="utf-8")
    print(_document(rows))


def _rows(name: str, budgets: list[str]) -> list[Row]:
    example = zoo.build(name)
    examples, plans = [], []
    for budget in ("100%", *budgets):
        ours = dataclasses.replace(example, model=copy.deepcopy(example.model))
        plan, label = _planned(ours, budget)
        examples.append(ours)
        plans.append((plan, label))
    times = _times_ns(examples)
    return [
        Row(
            model=name,
            budget=label,
            predicted_ns=plan.baseline_step_ns + plan.recompute_ns,
            measured_ns=measured_ns,
            eager_ns=times[0],
            overhead=plan.overhead,
        )
        for (plan, label), measured_ns in zip(plans, times, strict=True)
    ]


def _planned(example: zoo.Example, budget: str) -> tuple[autockpt.Plan, str]:
    """Optimize for the budget, or for the smallest workable one above it."""

    def optimize(given: str | Budget) -> autockpt.Plan:
        autockpt.optimize(
            example.model,
            given,
            sample_args=example.args,
            sample_kwargs=dict(example.kwargs),
            loss_fn=example.loss_fn,
            optimizer="sgd",
            verify=False,
        )
        plan = autockpt.get_plan(example.model)
        assert plan is not None
        return plan

    if budget == "100%":
        return optimize(budget), "eager"
    try:
        return optimize(budget), budget
    except autockpt.BudgetError as error:
        return optimize(Budget(bytes=error.minimum_peak_bytes)), "the smallest"


def _times_ns(examples: list[zoo.Example]) -> list[int]:
    times: list[list[int]] = [[] for _ in examples]
    for position in range(_NUM_STEPS + 2):
        for taken, example in zip(times, examples, strict=True):
            started_ns = time.process_time_ns()
            _step(example)
            if position >= 2:
                taken.append(time.process_time_ns() - started_ns)
    return [min(taken) for taken in times]


def _step(example: zoo.Example) -> None:
    example.model.zero_grad(set_to_none=True)
    output = example.model(*example.args, **example.kwargs)
    example.loss_of(output).backward()


def _document(rows: list[Row]) -> str:
    off = [abs(row.predicted_ns / row.measured_ns - 1) for row in rows]
    header = "model, budget, predicted ms, measured ms, difference, predicted overhead, measured"
    lines = [
        "# Step time",
        "",
        f"Made on {dt.datetime.now(tz=dt.UTC).date()} by `python benchmarks/step_time.py` on a CPU",
        f"({platform.machine()}, 1 thread, torch {torch.__version__}): forward and backward of the",
        "zoo's small models, in processor time, the shortest of nine steps. *predicted* is the",
        "plan's `baseline_step_ns + recompute_ns`. Operators are measured one after the other, as",
        "in a step. An operator that is repeated alone finds its inputs in the caches.",
        "",
        f"Median difference {statistics.median(off):.1%}, largest {max(off):.1%}.",
        "",
        "| " + " | ".join(header.split(", ")) + " |",
        "|" + "---|" * 7,
    ]
    lines += ["| " + " | ".join(row.cells) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
