"""`autockpt verify`: real steps of a model, eager and optimized."""

from __future__ import annotations

from typing import Annotated

import typer

from autockpt.command.grammar.checks import checked_budget
from autockpt.command.grammar.options import (
    BatchedModelOptions,
    Budget,
    Json,
    SearchOptions,
    Shown,
    Target,
)
from autockpt.command.running.files import STANDARD_OUTPUT, check_writable, write
from autockpt.command.running.streams import show
from autockpt.command.running.told import status, told
from autockpt.command.targets.method import load_method

EXAMPLES = (
    "autockpt verify zoo:gpt2 --budget 40%",
    "autockpt verify my_models.py:small --budget 8GB --loss mean --optimizer sgd --steps 5",
)


def verify(
    target: Target,
    budget: Budget,
    model: BatchedModelOptions,
    search: SearchOptions,
    shown: Shown,
    steps: Annotated[int, typer.Option(metavar="N", help="Training steps.", min=1)] = 3,
    json: Json = None,
) -> None:
    """Run real training steps, eager and optimized: bits, measured peaks, times."""
    with told(shown):
        check_writable(json)
        wanted = checked_budget(budget)
        search.check()
        model.check(target)

        from autockpt.command.targets.target import load_step, runnable
        from autockpt.command.tasks.verification import described
        from autockpt.command.tasks.verification import verify as verify_both

        example = runnable(load_step(target, model, budget=wanted), target)
        is_told = json != STANDARD_OUTPUT
        if is_told:
            show(described(example, target, model.optimizer))
        with status(is_shown=is_told) as stage:
            verified = verify_both(
                example,
                wanted,
                optimizer=model.optimizer,
                num_steps=steps,
                stage=stage,
                method=load_method(search.method),
                time_limit_s=search.time_limit,
                progress=not shown.quiet,
            )
        if json is not None:
            write(json, verified.to_json())
        if is_told:
            show(verified.render())
        if verified.code:
            raise typer.Exit(verified.code)
