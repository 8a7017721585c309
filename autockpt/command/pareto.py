"""`autockpt pareto`: what each of many budgets costs, as text, JSON, CSV and a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import autockpt
from autockpt.command.options import (
    Attention,
    Autocast,
    Batch,
    Device,
    Dtype,
    Lora,
    Loss,
    Method,
    Optimizer,
    Quiet,
    Seq,
    Size,
    Target,
    Traceback,
    hub_options,
)
from autockpt.command.running import check_writable, console, say_if_stopped, told, write
from autockpt.command.target import TargetError, elsewhere, load, load_loss
from autockpt.report.curve import text
from autockpt.report.curve.search import NUM_POINTS, checked_budgets


def pareto(
    target: Target,
    points: Annotated[
        int | None,
        typer.Option(help=f"How many budgets to choose; {NUM_POINTS} by default."),
    ] = None,
    budgets: Annotated[
        str | None, typer.Option(help='The budgets instead, such as "40%,60%,8GB".')
    ] = None,
    method: Method = "auto",
    time_limit: Annotated[
        float | None,
        typer.Option(
            help="Time limit of the search in seconds, for all budgets together. Default: 8.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[Size, typer.Option(help="Size of a zoo model.")] = Size.SMALL,
    device: Device = None,
    batch: Batch = None,
    seq: Seq = None,
    dtype: Dtype = "fp32",
    autocast: Autocast = None,
    attention: Attention = "sdpa",
    lora: Lora = None,
    loss: Loss = None,
    optimizer: Optimizer = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the curve to this file; - for standard output.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write the points to this file; - for standard output.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the curve into this file: .png, .svg or .pdf. Needs matplotlib."),
    ] = None,
    quiet: Quiet = False,
    show_traceback: Traceback = False,
) -> None:
    """Shows what each of many budgets costs, without running a step."""
    with told(quiet=quiet, show_traceback=show_traceback) as interrupted:
        if points is not None and budgets is not None:
            raise TargetError("--points and --budgets exclude each other; give one of them")
        wanted = points if budgets is None else [part.strip() for part in budgets.split(",")]
        checked_budgets(wanted)
        for file in (json, csv, plot):
            if file is not None:
                check_writable(file)
        if plot is not None:
            _check_plot(plot)
        options = hub_options(seq, dtype, autocast, attention, lora)
        example = load(target, size=size.value, device=device, batch=batch, options=options)
        curve = autockpt.pareto(
            example.model,
            wanted,
            sample_args=example.args,
            sample_kwargs=dict(example.kwargs),
            loss_fn=load_loss(loss) if loss is not None else example.loss_fn,
            optimizer=optimizer,
            method=method,
            time_limit_s=time_limit,
            progress=not quiet,
            device=elsewhere(device),
        )
        say_if_stopped(interrupted)
        if plot is not None:
            _draw(curve, plot)
        for file, content in ((json, curve.to_json), (csv, curve.to_csv)):
            if file == Path("-"):
                sys.stdout.write(content())
            elif file is not None:
                write(file, content())
        if Path("-") not in (json, csv):
            console().print(text.render(curve))


def _check_plot(file: Path) -> None:
    """Fails before the work is done if the picture cannot be drawn."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TargetError(
            '--plot needs matplotlib, which is not installed: pip install "autockpt[plot]"'
        ) from error
    known = Figure().canvas.get_supported_filetypes()
    if file.suffix.lower().removeprefix(".") not in known:
        raise TargetError(
            f"cannot draw {file}: the suffix {file.suffix!r} names no format; use .png, .svg or "
            ".pdf"
        )


def _draw(curve: autockpt.Curve, file: Path) -> None:
    try:
        curve.save_plot(file)
    except OSError as error:
        raise TargetError(f"cannot write {file}: {error.strerror}") from error
