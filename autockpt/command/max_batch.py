"""`autockpt max-batch`: the largest batch whose training step fits a budget."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from autockpt.command.grammar.checks import checked_budget
from autockpt.command.grammar.options import Json, ModelOptions, SearchOptions, Shown, Target
from autockpt.command.grammar.usage_error import TargetError
from autockpt.command.running.files import STANDARD_OUTPUT, check_writable, write
from autockpt.command.running.streams import say
from autockpt.command.running.told import say_if_stopped, told
from autockpt.command.targets.method import load_method

EXAMPLES = (
    "autockpt max-batch my_models.py:batched --budget 8GB",
    "autockpt max-batch zoo:bert-base --budget 400MB --no-verify --json answer.json",
)


def max_batch(
    target: Target,
    budget: Annotated[
        str,
        typer.Option(
            metavar="BUDGET",
            help='Memory of a training step: "8GB", "8GiB", or on a device "auto", "80% of free" '
            'or "80% of device".',
            show_default=False,
        ),
    ],
    model: ModelOptions,
    search: SearchOptions,
    shown: Shown,
    json: Json = None,
    at_most: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="The largest batch size to consider.", min=1, show_default=False
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="Run a real step of the answer and measure its peak.")
    ] = True,
) -> None:
    """Find the largest batch whose training step fits a budget.

    A function is called with batch=N, for several N.
    """
    with told(shown, target) as interrupted:
        check_writable(json)
        wanted = checked_budget(budget)
        if wanted.bytes is None and not wanted.is_of_device:
            raise TargetError(f"--budget {budget} depends on the batch size; give bytes or 8GB")
        search.check()
        model.check(target)

        import autockpt
        from autockpt.command.targets.target import load_step, noted, takes_batch

        if not takes_batch(target):
            raise TargetError(
                f"{target} has no parameter batch; add one, and make inputs of that size"
            )
        method = load_method(search.method)
        first = load_step(target, model, budget=wanted, batch=1)

        def inputs(batch: int) -> Any:
            example = load_step(target, model, batch=batch).example
            return example.args, dict(example.kwargs)

        options: dict[str, Any] = {} if at_most is None else {"at_most": at_most}
        answer = autockpt.max_batch_size(
            inputs,
            first.model,
            wanted,
            loss_fn=first.loss_fn,
            optimizer=first.optimizer,
            cost=first.cost,
            method=method,
            time_limit_s=search.time_limit,
            verify=verify,
            progress=not shown.quiet,
            device=first.device,
            **options,
        )
        answer = noted(answer, first)
        say_if_stopped(interrupted)
        if json is not None:
            write(json, answer.to_json())
        if json != STANDARD_OUTPUT:
            say(str(answer))
