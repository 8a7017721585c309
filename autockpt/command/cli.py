"""The command line: `autockpt plan`, `fit`, `max-batch`, `pareto`, and the smaller commands."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

import autockpt
from autockpt import progress
from autockpt.budget import parse_budget
from autockpt.command import cache, fit, max_batch, pareto
from autockpt.command.options import (
    Anew,
    Attention,
    Autocast,
    Batch,
    Budget,
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
    Target,
    TimeLimit,
    Traceback,
    hub_options,
)
from autockpt.command.running import (
    EXIT_FAILED,
    check_writable,
    console,
    read,
    say_if_stopped,
    told,
    write,
)
from autockpt.command.target import TargetError, elsewhere, load, load_loss
from autockpt.dispatch.kept import none_kept
from autockpt.report import tables as report
from autockpt_solvers import graph_to_json

_app = typer.Typer(
    name="autockpt",
    help="Optimal activation checkpointing for PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_app.add_typer(cache.app, name="cache")
_app.command()(fit.fit)
_app.command()(pareto.pareto)
_app.command()(max_batch.max_batch)


@_app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(autockpt.__version__)
        raise typer.Exit


@_app.command()
def plan(
    target: Target,
    budget: Budget,
    method: Method = "auto",
    time_limit: EarlyTimeLimit = None,
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
    accumulate: Annotated[
        bool, typer.Option("--accumulate", help="Gradients add to those of an earlier backward.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(help="Write the plan to this file; - for standard output.")
    ] = None,
    anew: Anew = False,
    quiet: Quiet = False,
    show_traceback: Traceback = False,
) -> None:
    """Plans a training step and prints the plan, without running a step."""
    with told(quiet=quiet, show_traceback=show_traceback) as interrupted:
        if json is not None:
            check_writable(json)
        parse_budget(budget)
        options = hub_options(seq, dtype, autocast, attention, lora)
        example = load(target, size=size.value, device=device, batch=batch, options=options)
        with warnings.catch_warnings(), none_kept() if anew else contextlib.nullcontext():
            if json != Path("-"):  # the report says it
                warnings.filterwarnings("ignore", message="the plan for .* recomputes")
            made = autockpt.plan(
                example.model,
                budget,
                sample_args=example.args,
                sample_kwargs=dict(example.kwargs),
                loss_fn=load_loss(loss) if loss is not None else example.loss_fn,
                optimizer=optimizer,
                method=method,
                time_limit_s=time_limit,
                progress=not quiet,
                device=elsewhere(device),
                accumulates=accumulate,
            )
        say_if_stopped(interrupted)
        if json == Path("-"):
            sys.stdout.write(made.to_json())
            return
        console().print(report.render(made))
        if json is not None:
            _save(made, json)


@_app.command()
def demo(
    model: Annotated[str, typer.Option(help="A model of the zoo.")] = "gpt2",
    budget: Budget = "40%",
    size: Annotated[Size, typer.Option(help="Size of the model.")] = Size.SMALL,
    device: Device = None,
    method: Method = "auto",
    time_limit: TimeLimit = 20.0,
    steps: Annotated[int, typer.Option(help="Number of training steps.", min=1)] = 3,
    quiet: Quiet = False,
    show_traceback: Traceback = False,
) -> None:
    """Trains a model eagerly and optimized, and compares memory, time and bits."""
    from autockpt.command.demo import Demo

    with told(quiet=quiet, show_traceback=show_traceback):
        same = Demo(
            example=load(f"zoo:{model}", size=size.value, device=device),
            name=f"{model} ({size.value})",
            budget=budget,
            method=method,
            time_limit_s=time_limit,
            num_steps=steps,
            progress=not quiet,
        ).run(console())
        if not same:
            raise typer.Exit(EXIT_FAILED)


@_app.command()
def graph(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="As for plan.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    size: Annotated[Size, typer.Option(help="Size of a zoo model.")] = Size.SMALL,
    device: Device = None,
    loss: Annotated[str | None, typer.Option(help="As for plan.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="As for plan.")] = None,
    quiet: Quiet = False,
    show_traceback: Traceback = False,
) -> None:
    """Writes the graph of a model's training step as JSON."""
    with told(quiet=quiet, show_traceback=show_traceback):
        check_writable(output)
        example = load(target, size=size.value, device=device)
        with none_kept():  # only the graph is of use
            made = autockpt.plan(
                example.model,
                "100%",
                sample_args=example.args,
                sample_kwargs=dict(example.kwargs),
                loss_fn=load_loss(loss) if loss is not None else example.loss_fn,
                optimizer=optimizer,
                method="none",
                progress=not quiet,
            )
        assert made.graph is not None
        assert made.schedule is not None
        write(output, graph_to_json(made.graph))
        fixed_bytes = made.fixed.total_bytes + made.older_gradients_bytes
        typer.echo(
            f"{output}: {len(made.graph.ops)} ops, {len(made.graph.storages)} storages; "
            f"{fixed_bytes} fixed bytes beside them"
        )


@_app.command()
def solve(
    graph: Annotated[Path, typer.Argument(metavar="GRAPH.json", help="The graph.")],
    budget: Annotated[
        str, typer.Option(help='Bytes, "8GB", "8GiB", or "80%" of the peak if every op runs once.')
    ],
    method: Method = "auto",
    time_limit: TimeLimit = 60.0,
    json: Annotated[Path | None, typer.Option(help="Write the result to this file.")] = None,
    schedule: Annotated[
        Path | None, typer.Option(help='Write the steps: ["compute", op] and ["free", storage].')
    ] = None,
    quiet: Quiet = False,
    show_traceback: Traceback = False,
) -> None:
    """Solves a graph file for a budget, without a model."""
    from autockpt.command.graph_file import solve_file

    with told(quiet=quiet, show_traceback=show_traceback) as interrupted:
        for file in (json, schedule):
            if file is not None:
                check_writable(file)
        text = read(graph)
        with progress.planning(graph.name, is_shown=not quiet):
            solved = solve_file(text, budget, method=method, time_limit_s=time_limit)
        say_if_stopped(interrupted)
        typer.echo(solved.text())
        if json is not None:
            write(json, solved.json())
        if schedule is not None and solved.result.schedule is not None:
            write(schedule, solved.steps())
        if solved.result.schedule is None:
            raise typer.Exit(EXIT_FAILED)


def _save(plan: autockpt.Plan, file: Path) -> None:
    try:
        plan.save(file)
    except OSError as error:
        raise TargetError(str(error)) from error


def main() -> None:
    """Runs the command line."""
    # Some builds of torch print a line on standard error whenever the profiler starts.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    _app()
