"""Whether the largest batch is right to the unit: it trains within the budget, the next one cannot.

    python benchmarks/batches.py [--models gpt2,vit] [--output FILE]

The budget of a model is what eager PyTorch needs for a batch of 2. The batch that
`max_batch_size` finds trains three steps under it in a model that was built anew, with the measured
peak beside the budget. The next batch is planned for the same budget, which must fail.
"""

from __future__ import annotations

import argparse
import datetime as dt
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import autockpt
from autockpt import zoo
from autockpt.torch_private.pytree import tree_leaves
from autockpt.verify.live_bytes import distinct_bytes
from autockpt.verify.peak import measure_peak_bytes

_MODELS = ("gpt2", "bert-base", "llama", "vit", "resnet50", "convnext", "unet", "sequential")
_MIB = 2**20


def main() -> None:
    """Search, train, print a table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--models", default=",".join(_MODELS))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows: list[tuple[str, ...]] = []
    for name in options.models.split(","):
        rows.append(_row(name))
        print(" | ".join(rows[-1]), flush=True)
        if options.output is not None:
            options.output.write_text(_document(rows), encoding="utf-8")
    print(_document(rows))


def _row(name: str) -> tuple[str, ...]:
    usual = zoo.build(name, batch=2)
    step: dict[str, Any] = {"loss_fn": usual.loss_fn, "optimizer": "adamw", "progress": False}
    asked = {"time_limit_s": 20, **step}
    inputs = {"sample_args": usual.args, "sample_kwargs": dict(usual.kwargs)}
    budget = autockpt.plan(usual.model, "100GB", **inputs, **asked).baseline_peak_bytes
    started_s = time.process_time()
    answer = autockpt.max_batch_size(
        lambda size: _inputs(name, size), usual.model, budget, verify=False, **asked
    )
    taken_s = time.process_time() - started_s
    measured_bytes = _trained_bytes(name, answer.batch_size, budget)
    return (
        name,
        f"{budget / _MIB:.1f}",
        _known(answer.eager_batch_size),
        _known(answer.checkpointed_batch_size),
        str(answer.batch_size),
        f"{measured_bytes / _MIB:.1f}",
        "yes" if measured_bytes <= budget else f"OVER by {measured_bytes - budget} B",
        _next(name, answer.batch_size + 1, budget, asked),
        f"{taken_s:.0f}",
    )


def _known(size: int | None) -> str:
    return "not known" if size is None else str(size)


def _inputs(name: str, size: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    example = zoo.build(name, batch=size)
    return example.args, dict(example.kwargs)


def _trained_bytes(name: str, size: int, budget: int) -> int:
    """The measured peak of a training step at a size, everything counted."""
    example = zoo.build(name, batch=size)
    model, args, kwargs = example.model, example.args, dict(example.kwargs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    asked: dict[str, Any] = {"loss_fn": example.loss_fn, "optimizer": optimizer}
    autockpt.optimize(model, budget, time_limit_s=20, progress=False, **asked)

    def step() -> None:
        example.loss_of(model(*args, **kwargs)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    state = [optimizer.state.get(p, {}) for p in model.parameters()]
    resting = tree_leaves([list(model.parameters()), list(model.buffers()), state, args, kwargs])
    return distinct_bytes(resting) + measure_peak_bytes(step)


def _next(name: str, size: int, budget: int, asked: dict[str, Any]) -> str:
    example = zoo.build(name, batch=size)
    asked = {**asked, "loss_fn": example.loss_fn}
    try:
        autockpt.plan(
            example.model, budget, sample_args=example.args, sample_kwargs=dict(example.kwargs),
            **asked,
        )  # fmt: skip
    except autockpt.BudgetError as error:
        return f"needs {error.minimum_peak_bytes / _MIB:.1f}"
    return "PLANS TOO"


def _document(rows: list[tuple[str, ...]]) -> str:
    header = (
        "model", "budget MiB", "eager", "cuts at equal distances", "autockpt", "measured MiB",
        "within the budget", "next batch, MiB", "processor s",
    )  # fmt: skip
    right = sum(row[6] == "yes" and row[7].startswith("needs") for row in rows)
    lines = [
        "# Largest batches",
        "",
        f"Made on {dt.datetime.now(tz=dt.UTC).date()} by `python benchmarks/batches.py` on a CPU",
        f"({platform.machine()}, torch {torch.__version__}), with AdamW and the default method.",
        "The budget of a model is what eager PyTorch needs for a batch of 2. The batch that",
        "`autockpt.max_batch_size` finds trains three steps, in a model that was built anew; the",
        "next batch is planned for the same budget, which must fail.",
        "",
        f"Right to the unit: {right} of {len(rows)} models. Without autockpt, and with checkpoints",
        "at equal distances, the largest batch is simulated; it is not known for a model whose",
        "bytes do not grow along a line.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
    ]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
