"""Processor time from the start of a process to the end of its first training step.

    python benchmarks/first_step.py [--models gpt2,resnet50] [--budget 75%] [--output FILE]

Every figure is of a process of its own, so that nothing is warm. `torch.compile` with the backend
`aot_eager` traces a model with the same machinery and changes nothing, so it is what to compare
with. Ratios of one run on a quiet machine mean more than seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODELS = ("gpt2", "resnet50", "unet", "mamba", "lstm-loop", "lightning")
_INSIDE = "--inside"  # the argument of a measured process
_LIMIT_S = 900.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FirstStep:
    """One process.

    Attributes:
        seconds: Processor time to the end of the first step, imports included.
        rung: The plan's rung; empty if there is no plan.
        solve_s: What the solver took.
        overhead: What the plan recomputes, as a share of the step.
    """

    seconds: float
    rung: str = ""
    solve_s: float = 0.0
    overhead: float = 0.0


def main() -> None:
    """Measure, print a table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--budget", default="75%")
    parser.add_argument("--output", type=Path)
    parser.add_argument(_INSIDE, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        model, how = options.inside.split(":")
        print(json.dumps(dataclasses.asdict(_first_step(model, how, options.budget))))
        return
    rows: list[str] = []
    for name in options.models.split(","):
        rows.append(_row(name, options.budget))
        # Models take minutes: what is measured so far is kept.
        if options.output is not None:
            options.output.write_text(_document(rows, options.budget), encoding="utf-8")
    print(_document(rows, options.budget))


def _row(name: str, budget: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        eager = _measured(name, "eager", budget, folder)
        traced = _measured(name, "aot_eager", budget, folder)
        first = _measured(name, "autockpt", budget, folder)
        second = _measured(name, "autockpt", budget, folder)
        known = _measured(name, "autockpt", budget, folder, keeps="0")
    row = (
        f"| {name} | {eager.seconds:.1f} | {traced.seconds:.1f} | {_against(first, traced)} | "
        f"{_against(known, traced)} | {_against(second, traced)} | {first.solve_s:.1f} | "
        f"{first.rung}, +{first.overhead:.1%} |"
    )
    print(row, flush=True)
    return row


def _against(step: FirstStep, traced: FirstStep) -> str:
    return f"{step.seconds:.1f} ({step.seconds / traced.seconds:.2f})"


def _measured(name: str, how: str, budget: str, folder: str, *, keeps: str = "1") -> FirstStep:
    done = subprocess.run(
        [sys.executable, __file__, _INSIDE, f"{name}:{how}", "--budget", budget],
        env=os.environ | {"AUTOCKPT_CACHE_DIR": folder, "AUTOCKPT_PLAN_CACHE": keeps},
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name} {how}: {done.stderr[-2000:]}")
    return FirstStep(**json.loads(done.stdout.splitlines()[-1]))


def _first_step(name: str, how: str, budget: str) -> FirstStep:
    import torch

    torch.set_num_threads(1)
    if name == "lightning":
        return _lightning_step(how, budget)
    model, args, kwargs, loss_fn = _model(name)
    called: Callable[..., Any] = model
    if how == "aot_eager":
        called = torch.compile(model, backend="aot_eager")
    if how == "autockpt":
        import autockpt

        autockpt.optimize(model, budget, loss_fn=loss_fn)
    output = called(*args, **kwargs)
    loss = getattr(output, "loss", output) if loss_fn is None else loss_fn(output)
    loss.backward()
    return _told(model)


def _told(model: Any) -> FirstStep:
    seconds = time.process_time()
    autockpt = sys.modules.get("autockpt")
    plan = None if autockpt is None else autockpt.get_plan(model)
    if plan is None:
        return FirstStep(seconds=seconds)
    return FirstStep(
        seconds=seconds, rung=plan.rung, solve_s=plan.solve_time_s, overhead=plan.overhead
    )


def _model(name: str) -> tuple[Any, tuple[Any, ...], dict[str, Any], Any]:
    import torch

    if name == "lstm-loop":
        torch.manual_seed(0)
        return _CellsInALoop(), (torch.randn(16, 24, 64),), {}, lambda y: y.square().mean()
    from autockpt import zoo

    example = zoo.build(name)
    return example.model, example.args, dict(example.kwargs), example.loss_fn


def _CellsInALoop() -> Any:  # noqa: N802 - a class, made where torch is imported
    import torch

    class CellsInALoop(torch.nn.Module):
        """Two LSTM cells, step by step through a sequence of 24."""

        def __init__(self) -> None:
            super().__init__()
            self.cells = torch.nn.ModuleList(torch.nn.LSTMCell(64, 64) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            states: list[Any] = [None, None]
            outputs = []
            for at in range(x.shape[1]):
                value = x[:, at]
                for number, cell in enumerate(self.cells):
                    states[number] = cell(value, states[number])
                    value = states[number][0]
                outputs.append(value)
            return torch.stack(outputs, 1)

    return CellsInALoop()


def _lightning_step(how: str, budget: str) -> FirstStep:
    import pytorch_lightning as lightning
    import torch

    model, args, kwargs, _ = _model("gpt2")
    assert not args
    called: Callable[..., Any] = model
    if how == "aot_eager":
        called = torch.compile(model, backend="aot_eager")
    if how == "autockpt":
        import autockpt

        autockpt.optimize(model, budget)

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
            loss: torch.Tensor = called(**batch).loss
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    trainer = lightning.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([kwargs], batch_size=None)
    trainer.fit(Lit(), loader)
    return _told(model)


def _document(rows: list[str], budget: str) -> str:
    import torch

    return f"""# The first step

Made on {dt.datetime.now(tz=dt.UTC).date()} by `python benchmarks/first_step.py --budget {budget}` \
on a CPU ({platform.machine()}, 1 thread, torch {torch.__version__}). Seconds of processor time
from the start of a process to the end of its first training step, imports included. In brackets:
the ratio to `torch.compile(backend="aot_eager")` in the same run, which traces the model and
changes nothing.

- *first*: no cache.
- *operators known*: an earlier process measured the operators, but its plan was not kept.
- *kept plan*: a second process, which neither profiles nor solves.

Compiling the solver's kernels, once per installation, is not counted.

| model | eager | aot_eager | first | operators known | kept plan | solver s | plan |
|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


if __name__ == "__main__":
    main()
