"""`autockpt demo`: trains a model eagerly and optimized, and compares."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from autockpt.command import exits
from autockpt.command.checks import checked_budget
from autockpt.command.methods import load_method
from autockpt.command.options import (
    Budget,
    ModelOptions,
    SearchOptions,
    Shown,
    Size,
)
from autockpt.command.running import told, width
from autockpt.zoo.catalogue import NAMES

EXAMPLES = ("autockpt demo", "autockpt demo --model resnet50 --budget 70%")
_TIME_LIMIT_S = 20.0
_MODEL_HELP = f"A model of the zoo: {', '.join(NAMES)}."


def _models(incomplete: str) -> list[str]:
    return [name for name in NAMES if name.startswith(incomplete)]


def demo(
    search: SearchOptions,
    shown: Shown,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=_MODEL_HELP,
            autocompletion=_models,
        ),
    ] = "gpt2",
    budget: Budget = "40%",
    size: Annotated[Size, typer.Option(help="Size of the model.")] = Size.SMALL,
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="cpu or cuda.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(help="Number of training steps.", min=1)] = 3,
) -> None:
    """Train a model of the zoo eagerly and optimized, and compare memory, time and bits."""
    with told(shown):
        wanted = checked_budget(budget)
        search.check()
        options = ModelOptions(size=size, device=device)
        options.check(f"zoo:{model}")

        from autockpt.command.target import load_step
        from autockpt.command.training_demo import Demo

        same = Demo(
            example=load_step(f"zoo:{model}", options, budget=wanted).to_run(),
            name=f"{model} ({size.value})",
            budget=budget,
            method=load_method(search.method),
            time_limit_s=_TIME_LIMIT_S if search.time_limit is None else search.time_limit,
            num_steps=steps,
            progress=not shown.quiet,
        ).run(Console(width=width()))
        if not same:
            raise typer.Exit(exits.BUG)
