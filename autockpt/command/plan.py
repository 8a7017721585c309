"""`autockpt plan`: the plan of a training step for a budget."""

from __future__ import annotations

import contextlib
import warnings
from typing import Annotated

import typer

from autockpt.command.checks import checked_budget
from autockpt.command.methods import load_method
from autockpt.command.options import (
    BatchedModelOptions,
    Budget,
    Json,
    SearchOptions,
    Shown,
    Target,
)
from autockpt.command.running import (
    STANDARD_OUTPUT,
    check_writable,
    console,
    say_if_stopped,
    told,
    write,
)

EXAMPLES = (
    "autockpt plan zoo:gpt2 --budget 40%",
    "autockpt plan my_models.py:small --budget 8GB --loss mean --optimizer sgd",
    "autockpt plan hf:llama-7b/config.json --device h100 --dtype bf16 --budget 70GB",
    "autockpt plan zoo:bert-large --size full --device meta --budget 8GB --json plan.json",
)


def plan(
    target: Target,
    budget: Budget,
    model: BatchedModelOptions,
    search: SearchOptions,
    shown: Shown,
    json: Json = None,
    accumulate: Annotated[
        bool, typer.Option("--accumulate", help="Gradients add to those of an earlier backward.")
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Neither use nor keep plans on disk; solve again.")
    ] = False,
) -> None:
    """Plan a training step for a budget, without running a step."""
    with told(shown) as interrupted:
        check_writable(json)
        wanted = checked_budget(budget)
        search.check()
        model.check(target)

        import autockpt
        from autockpt.command.target import load_step
        from autockpt.dispatch.kept import none_kept
        from autockpt.report import tables

        method = load_method(search.method)
        loaded = load_step(target, model, budget=wanted)
        with warnings.catch_warnings(), none_kept() if anew else contextlib.nullcontext():
            if json != STANDARD_OUTPUT:  # the report says it
                warnings.filterwarnings("ignore", message="the plan for .* recomputes")
            made = autockpt.plan(
                loaded.model,
                wanted,
                **loaded.step,
                method=method,
                time_limit_s=search.time_limit,
                progress=not shown.quiet,
                device=loaded.device,
                accumulates=accumulate,
            )
        say_if_stopped(interrupted)
        if json is not None:
            write(json, made.to_json())
        if json != STANDARD_OUTPUT:
            console().print(tables.render(made))
