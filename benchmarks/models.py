"""Every model of the zoo at several budgets, measured beside eager and per-layer checkpointing.

    python benchmarks/models.py [--models gpt2,bert-base] [--shares 0.75,0.5,0.25] [--output FILE]

A share f stands for the budget: resting bytes + gradients + f x (what eager holds beyond them).
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime as dt
import platform
from pathlib import Path
from typing import Any

import torch

import autockpt
from autockpt import zoo
from autockpt.budget import Budget
from autockpt.dispatch.forward import OptimizedForward
from autockpt.experiments.side_by_side import Trainer, compare, time_in_turns
from autockpt.verify.live_bytes import distinct_bytes

MIB = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One model at one budget; bytes are totals less parameters, buffers, optimizer and batch."""

    model: str
    share: str
    cells: tuple[str, ...]


def main() -> None:
    """Measure, print a table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--models", default="all")
    parser.add_argument("--shares", default="0.75,0.5,0.25")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = zoo.names() if options.models == "all" else options.models.split(",")
    rows: list[Row] = []
    for name in names:
        rows += model_rows(name, [float(share) for share in options.shares.split(",")])
        for row in rows[-4:]:
            print(" ".join((row.model, row.share, *row.cells)), flush=True)
        # Models take minutes: what is measured so far is kept.
        text = document(rows, options.threads)
        if options.output is not None:
            options.output.write_text(text, encoding="utf-8")
    print(text)


def model_rows(name: str, shares: list[float]) -> list[Row]:
    """Eager, per-layer checkpointing where the library has it, and a plan for every share."""
    example = zoo.build(name)
    eager = Trainer(dataclasses.replace(example, model=copy.deepcopy(example.model)))
    expected = eager.train(3)
    expected = {key: value.clone() for key, value in expected.items()}
    resting_bytes = eager.resting_bytes()
    eager_bytes = eager.peak_bytes() - resting_bytes
    gradient_bytes = distinct_bytes([p for p in example.model.parameters() if p.requires_grad])
    rows = [Row(model=name, share="eager", cells=(mib(eager_bytes), "", "", "", "", "1.00", ""))]
    checkpointed = per_layer_checkpointing(example)
    if checkpointed is not None:
        same = compare(expected, checkpointed.train(3)).bit_equal
        peak_bytes = checkpointed.peak_bytes() - resting_bytes
        times = time_in_turns(eager, checkpointed, num_pairs=5)
        cells = (mib(peak_bytes), "", "", "", "", f"{times.ratio:.2f}", "yes" if same else "NO")
        rows.append(Row(model=name, share="every layer checkpointed", cells=cells))
    for share in shares:
        budget = resting_bytes + gradient_bytes + int(share * (eager_bytes - gradient_bytes))
        rows.append(planned_row(name, share, example, budget, eager, expected))
    return rows


def planned_row(
    name: str,
    share: float,
    example: zoo.Example,
    budget: int,
    eager: Trainer,
    expected: dict[str, torch.Tensor],
) -> Row:
    """Plan, train, compare, measure and time one budget; at the minimum where it is below that."""
    ours = Trainer(dataclasses.replace(example, model=copy.deepcopy(example.model)))
    label = f"{share:g}"
    options: dict[str, Any] = {
        "sample_args": example.args,
        "sample_kwargs": dict(example.kwargs),
        "loss_fn": example.loss_fn,
        "optimizer": "adamw",
        "verify": False,
    }
    try:
        autockpt.optimize(ours.model, budget, **options)
    except autockpt.BudgetError as error:
        budget = error.minimum_peak_bytes
        label += " (below the minimum: at the minimum)"
        autockpt.optimize(ours.model, Budget(bytes=budget), **options)
    plan = autockpt.get_plan(ours.model)
    assert plan is not None
    assert isinstance(ours.model.forward, OptimizedForward)
    same = compare(expected, ours.train(3)).bit_equal
    resting_bytes = ours.resting_bytes()
    peak_bytes = ours.peak_bytes() - resting_bytes
    times = time_in_turns(eager, ours, num_pairs=5)
    fits = "" if peak_bytes + resting_bytes <= budget else " OVER"
    return Row(
        model=name,
        share=label,
        cells=(
            mib(peak_bytes) + fits,
            mib(budget - resting_bytes),
            mib(plan.predicted_peak_bytes - plan.fixed.total_bytes),
            f"{plan.overhead:.2%} ({plan.lower_bound:.2%})",
            f"{plan.solve_time_s:.1f}",
            f"{times.ratio:.2f}",
            "yes" if same else "NO",
        ),
    )


def per_layer_checkpointing(example: zoo.Example) -> Trainer | None:
    """The library's own checkpointing of every layer; None where it has none."""
    model: Any = copy.deepcopy(example.model)
    inner = next((m for m in model.modules() if hasattr(m, "gradient_checkpointing_enable")), None)
    if inner is not None:
        if not getattr(inner, "supports_gradient_checkpointing", False):
            return None
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        inner = next(
            (m for m in model.modules() if hasattr(m, "enable_gradient_checkpointing")), None
        )
        if inner is None:
            return None
        inner.enable_gradient_checkpointing()
    model.train()
    return Trainer(dataclasses.replace(example, model=model))


def mib(num_bytes: int) -> str:
    """Bytes as MiB with two digits."""
    return f"{num_bytes / MIB:.2f}"


def document(rows: list[Row], num_threads: int) -> str:
    """The table as a page."""
    today = dt.date.today().isoformat()
    head = (
        "model", "budget", "measured peak", "budget", "predicted peak", "recomputed (bound)",
        "solve s", "step time / eager", "bit-equal",
    )  # fmt: skip
    lines = [
        "# Models",
        "",
        f"Made on {today} by `python benchmarks/models.py` on a CPU ({platform.machine()},",
        f"{num_threads} thread, torch {torch.__version__}): the zoo's small models, training mode,",
        "dropout on where the model has it, AdamW, three steps compared bit for bit. Sizes are MiB",
        "above parameters, buffers, optimizer state and batch; gradients are included. A budget f",
        "allows the gradients and f times what eager needs beyond them. *recomputed* is the share",
        "of the step's operation time in the profile, with its proven lower bound. *step time* is",
        "the median of five pairs of alternating steps on a shared machine, exact to a few per",
        "cent. Per-layer checkpointing is the library's own (`use_reentrant=False`).",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    lines += ["| " + " | ".join((row.model, row.share, *row.cells)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
