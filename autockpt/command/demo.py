"""`autockpt demo`: trains a model of the zoo eagerly and optimized, and compares."""

from __future__ import annotations

from typing import Annotated

import typer

from autockpt.command.grammar.checks import checked_budget
from autockpt.command.grammar.options import (
    Budget,
    Json,
    ModelOptions,
    SearchOptions,
    Shown,
    Size,
)
from autockpt.command.running.files import STANDARD_OUTPUT, check_writable, write
from autockpt.command.running.streams import say, show, width
from autockpt.command.running.told import status, told
from autockpt.command.targets.method import load_method
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
        typer.Option(metavar="NAME", help=_MODEL_HELP, autocompletion=_models),
    ] = "gpt2",
    budget: Budget = "40%",
    size: Annotated[Size, typer.Option(help="Size of the model.")] = Size.SMALL,
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="cpu or cuda.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(metavar="N", help="Training steps.", min=1)] = 3,
    json: Json = None,
) -> None:
    """Train a model of the zoo eagerly and optimized, and compare memory, time and bits."""
    with told(shown):
        check_writable(json)
        wanted = checked_budget(budget)
        search.check()
        target, options = f"zoo:{model}", ModelOptions(size=size, device=device)
        options.check(target)

        from autockpt.command.plan import around
        from autockpt.command.targets.target import load_step, runnable
        from autockpt.command.tasks.verification import described, verify
        from autockpt.report.terminal import tables

        example = runnable(load_step(target, options, budget=wanted), target)
        is_told = json != STANDARD_OUTPUT
        if is_told:
            show(described(example, f"{model} ({size.value})", None))
        with status(is_shown=is_told) as stage:
            verified = verify(
                example,
                wanted,
                optimizer=None,
                num_steps=steps,
                stage=stage,
                method=load_method(search.method),
                time_limit_s=_TIME_LIMIT_S if search.time_limit is None else search.time_limit,
                progress=not shown.quiet,
            )
        if json is not None:
            write(json, verified.to_json())
        if is_told:
            report = around(verified.plan, options.typed(target))
            for part in (tables.render(verified.plan, report, width=width()), verified.render()):
                say()
                show(part)
        if verified.code:
            raise typer.Exit(verified.code)
