"""`autockpt fit`: whether a training step fits a device, on one screen."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import autockpt
from autockpt.command.options import (
    Attention,
    Autocast,
    Batch,
    Dtype,
    Lora,
    Loss,
    Optimizer,
    Quiet,
    Seq,
    Size,
    Target,
    Traceback,
    hub_options,
)
from autockpt.command.running import EXIT_DOES_NOT_FIT, check_writable, console, told, write
from autockpt.command.target import TargetError, load, load_loss, takes_batch
from autockpt.devices.lookup import device_names, find_device
from autockpt.fitting.answer import Fit
from autockpt.fitting.text import render, row_of
from autockpt.fitting.value import Variant
from autockpt.hub.options import HubOptions
from autockpt.zoo import Example

_LORA_RANK = 16


def fit(
    target: Target,
    device: Annotated[
        str | None,
        typer.Option(help=f"The device: {', '.join(device_names())}, or a .toml file."),
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help='Several devices, "h100,a100-80", or "all": a table.')
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="What a step may use; by default the device's memory but its context."),
    ] = None,
    batch: Batch = None,
    seq: Seq = None,
    dtype: Dtype = "fp32",
    autocast: Autocast = None,
    attention: Attention = "sdpa",
    lora: Lora = None,
    size: Annotated[Size, typer.Option(help="Size of a zoo model.")] = Size.SMALL,
    loss: Loss = None,
    optimizer: Optimizer = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the answer to this file; - for standard output.")
    ] = None,
    quiet: Quiet = False,
    show_traceback: Traceback = False,
) -> None:
    """Says whether a training step fits a device, what it costs there and what would help."""
    with told(quiet=quiet, show_traceback=show_traceback):
        names = _names(device, devices)
        if json is not None:
            check_writable(json)
        options = hub_options(seq, dtype, autocast, attention, lora)
        example = load(target, size=size.value, device=names[0], batch=batch, options=options)
        loss_fn = load_loss(loss) if loss is not None else example.loss_fn
        is_alone = len(names) == 1

        def make_inputs(size_of_batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
            made = load(
                target, size=size.value, device=names[0], batch=size_of_batch, options=options
            )
            return made.args, dict(made.kwargs)

        answers = [
            autockpt.fit(
                example.model,
                name,
                budget=budget,
                sample_args=example.args,
                sample_kwargs=dict(example.kwargs),
                loss_fn=loss_fn,
                optimizer=optimizer,
                make_inputs=make_inputs if is_alone and takes_batch(target) else None,
                variants=_variants(target, batch, options) if is_alone else None,
                progress=not quiet,
            )
            for name in names
        ]
        _show(answers, json)
        if not any(answer.fits for answer in answers):
            raise typer.Exit(EXIT_DOES_NOT_FIT)


def _names(device: str | None, devices: str | None) -> list[str]:
    """The devices that are asked for; all are known."""
    if (device is None) == (devices is None):
        raise TargetError("give one of --device and --devices, such as --device h100")
    if devices is None:
        names = [device or ""]
    elif devices == "all":
        names = list(device_names())
    else:
        names = [name.strip() for name in devices.split(",")]
    for name in names:
        find_device(name)
    return names


def _variants(
    target: str, batch: int | None, options: HubOptions
) -> dict[str, Callable[[], Variant]] | None:
    """The same model in other precisions, or with adapters."""
    if not target.startswith("hf:"):
        return None

    def of(**changes: Any) -> Callable[[], Variant]:
        changed = dataclasses.replace(options, **changes)
        return lambda: _variant(load(target, batch=batch, options=changed))

    found = {}
    if options.dtype == "fp32" and options.autocast is None:
        found["autocast to bf16"] = of(autocast="bf16")
        found["bf16 throughout"] = of(dtype="bf16")
    if options.attention == "eager":
        found["scaled_dot_product_attention"] = of(attention="sdpa")
    if options.lora is None:
        found[f"LoRA of rank {_LORA_RANK}"] = of(lora=_LORA_RANK)
    return found


def _variant(example: Example) -> Variant:
    return Variant(
        model=example.model, args=example.args, kwargs=example.kwargs, loss_fn=example.loss_fn
    )


def _show(answers: list[Fit], json: Path | None) -> None:
    if json is not None:
        parts = [answer.to_json().rstrip() for answer in answers]
        content = parts[0] if len(parts) == 1 else "[" + ",".join(parts) + "]"
        if json == Path("-"):
            sys.stdout.write(content + "\n")
            return
        write(json, content + "\n")
    if len(answers) == 1:
        console().print(render(answers[0]))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("device", "room", "how it fits", "peak", "step", "per second"):
        table.add_column(name, justify="left" if name in ("device", "how it fits") else "right")
    for answer in answers:
        table.add_row(*row_of(answer))
    console().print(table)
