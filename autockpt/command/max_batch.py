"""`autockpt max-batch`: the largest batch whose training step fits a budget."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import autockpt
from autockpt.command.options import (
    Attention,
    Autocast,
    Device,
    Dtype,
    EarlyTimeLimit,
    Lora,
    Loss,
    Method,
    Optimizer,
    Quiet,
    Seq,
    Size,
    Traceback,
    hub_options,
)
from autockpt.command.running import check_writable, say_if_stopped, told, write
from autockpt.command.target import TargetError, elsewhere, load, load_loss, takes_batch


def max_batch(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="As for plan, but the function is called with batch=N, for several N.",
        ),
    ],
    budget: Annotated[str, typer.Option(help='Memory of a training step: bytes, "8GB", "8GiB".')],
    method: Method = "auto",
    time_limit: EarlyTimeLimit = None,
    at_most: Annotated[
        int | None, typer.Option(help="The largest batch size to consider.", min=1)
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="Run a real step of the answer and measure its peak.")
    ] = True,
    size: Annotated[Size, typer.Option(help="Size of a zoo model.")] = Size.SMALL,
    device: Device = None,
    seq: Seq = None,
    dtype: Dtype = "fp32",
    autocast: Autocast = None,
    attention: Attention = "sdpa",
    lora: Lora = None,
    loss: Loss = None,
    optimizer: Optimizer = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the answer to this file; - for standard output.")
    ] = None,
    quiet: Quiet = False,
    show_traceback: Traceback = False,
) -> None:
    """Finds the largest batch whose training step fits a budget."""
    with told(quiet=quiet, show_traceback=show_traceback) as interrupted:
        if json is not None:
            check_writable(json)
        if autockpt.parse_budget(budget).bytes is None:
            raise TargetError(f"--budget {budget} depends on the batch size; give bytes or 8GB")
        if not takes_batch(target):
            raise TargetError(
                f"{target} has no parameter batch; add one, and make inputs of that size"
            )
        hub = hub_options(seq, dtype, autocast, attention, lora)
        first = load(target, size=size.value, device=device, batch=1, options=hub)

        def inputs(batch: int) -> Any:
            example = load(target, size=size.value, device=device, batch=batch, options=hub)
            return example.args, dict(example.kwargs)

        options: dict[str, Any] = {} if at_most is None else {"at_most": at_most}
        answer = autockpt.max_batch_size(
            inputs,
            first.model,
            budget,
            loss_fn=load_loss(loss) if loss is not None else first.loss_fn,
            optimizer=optimizer,
            method=method,
            time_limit_s=time_limit,
            verify=verify,
            progress=not quiet,
            device=elsewhere(device),
            **options,
        )
        say_if_stopped(interrupted)
        if json == Path("-"):
            sys.stdout.write(answer.to_json())
            return
        typer.echo(str(answer))
        if json is not None:
            write(json, answer.to_json())
