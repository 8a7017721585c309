"""The command line: `autockpt plan`, `demo`, `graph`, `solve` and `cache`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import autockpt
from autockpt import progress, zoo
from autockpt.command import cache
from autockpt.command.interrupts import Interrupts, interrupts
from autockpt.command.target import TargetError, load, load_loss
from autockpt.dispatch.kept import none_kept
from autockpt.errors import AutockptError, BudgetError
from autockpt.report import tables as report
from autockpt_solvers import graph_to_json, simulate

_app = typer.Typer(
    name="autockpt",
    help="Optimal activation checkpointing for PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_app.add_typer(cache.app, name="cache")
_EXIT_FAILED = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130  # as shells report it: 128 and the number of SIGINT


class _Size(StrEnum):
    SMALL = "small"
    FULL = "full"


_Budget = Annotated[
    str,
    typer.Option(
        help='Memory of a training step: bytes, "8GB", "8GiB", or "60%" of the eager peak.'
    ),
]
_Method = Annotated[str, typer.Option(help="Name of the solver method.")]
_TimeLimit = Annotated[float, typer.Option(help="Time limit of the search in seconds.")]
_EarlyTimeLimit = Annotated[
    float | None,
    typer.Option(
        help="Time limit of the search in seconds. Default: until the search has stalled, 60 at "
        "most.",
        show_default=False,
    ),
]
_Device = Annotated[
    str | None,
    typer.Option(help="Device of a zoo model: cpu, cuda, or meta to plan without memory."),
]
_Anew = Annotated[
    bool, typer.Option("--anew", help="Neither use nor keep plans on disk; solve again.")
]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
_Traceback = Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")]


@_app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(autockpt.__version__)
        raise typer.Exit


@_app.command()
def plan(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="file.py:function or package.module:function, a function that returns "
            "(model, args, kwargs) or (model, inputs); or zoo:NAME with NAME one of "
            f"{', '.join(zoo.names())}.",
        ),
    ],
    budget: _Budget,
    method: _Method = "auto",
    time_limit: _EarlyTimeLimit = None,
    size: Annotated[_Size, typer.Option(help="Size of a zoo model.")] = _Size.SMALL,
    device: _Device = None,
    loss: Annotated[
        str | None,
        typer.Option(help="How to compute a loss from the output: sum, mean, or file.py:function."),
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help='Name of the optimizer to count: "adamw", "sgd", ...')
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the plan to this file; - for standard output.")
    ] = None,
    anew: _Anew = False,
    quiet: _Quiet = False,
    show_traceback: _Traceback = False,
) -> None:
    """Plans a training step and prints the plan, without running a step."""
    with _told(quiet=quiet, show_traceback=show_traceback) as interrupted:
        if json is not None:
            _check_writable(json)
        example = load(target, size=size.value, device=device)
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
            )
        _say_if_stopped(interrupted)
        if json == Path("-"):
            sys.stdout.write(made.to_json())
            return
        _console().print(report.render(made))
        if json is not None:
            _save(made, json)


@_app.command()
def demo(
    model: Annotated[str, typer.Option(help="A model of the zoo.")] = "gpt2",
    budget: _Budget = "40%",
    size: Annotated[_Size, typer.Option(help="Size of the model.")] = _Size.SMALL,
    device: _Device = None,
    method: _Method = "auto",
    time_limit: _TimeLimit = 20.0,
    steps: Annotated[int, typer.Option(help="Number of training steps.", min=1)] = 3,
    quiet: _Quiet = False,
    show_traceback: _Traceback = False,
) -> None:
    """Trains a model eagerly and optimized, and compares memory, time and bits."""
    from autockpt.command.demo import Demo

    with _told(quiet=quiet, show_traceback=show_traceback):
        same = Demo(
            example=load(f"zoo:{model}", size=size.value, device=device),
            name=f"{model} ({size.value})",
            budget=budget,
            method=method,
            time_limit_s=time_limit,
            num_steps=steps,
            progress=not quiet,
        ).run(_console())
        if not same:
            raise typer.Exit(_EXIT_FAILED)


@_app.command()
def graph(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="As for plan.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    size: Annotated[_Size, typer.Option(help="Size of a zoo model.")] = _Size.SMALL,
    device: _Device = None,
    loss: Annotated[str | None, typer.Option(help="As for plan.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="As for plan.")] = None,
    quiet: _Quiet = False,
    show_traceback: _Traceback = False,
) -> None:
    """Writes the graph of a model's training step as JSON."""
    with _told(quiet=quiet, show_traceback=show_traceback):
        _check_writable(output)
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
        _write(output, graph_to_json(made.graph))
        fixed_bytes = made.predicted_peak_bytes - simulate(made.graph, made.schedule).peak_bytes
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
    method: _Method = "auto",
    time_limit: _TimeLimit = 60.0,
    json: Annotated[Path | None, typer.Option(help="Write the result to this file.")] = None,
    schedule: Annotated[
        Path | None, typer.Option(help='Write the steps: ["compute", op] and ["free", storage].')
    ] = None,
    quiet: _Quiet = False,
    show_traceback: _Traceback = False,
) -> None:
    """Solves a graph file for a budget, without a model."""
    from autockpt.command.graph_file import solve_file

    with _told(quiet=quiet, show_traceback=show_traceback) as interrupted:
        for file in (json, schedule):
            if file is not None:
                _check_writable(file)
        text = _read(graph)
        with progress.planning(graph.name, is_shown=not quiet):
            solved = solve_file(text, budget, method=method, time_limit_s=time_limit)
        _say_if_stopped(interrupted)
        typer.echo(solved.text())
        if json is not None:
            _write(json, solved.json())
        if schedule is not None and solved.result.schedule is not None:
            _write(schedule, solved.steps())
        if solved.result.schedule is None:
            raise typer.Exit(_EXIT_FAILED)


def _check_writable(file: Path) -> None:
    """Fails before the work is done if its result cannot be written."""
    if not file.parent.is_dir():
        raise TargetError(f"cannot write {file}: there is no folder {file.parent}")
    if file.is_dir():
        raise TargetError(f"cannot write {file}: it is a folder; name a file")


def _save(plan: autockpt.Plan, file: Path) -> None:
    try:
        plan.save(file)
    except OSError as error:
        raise TargetError(str(error)) from error


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TargetError(f"cannot write {file}: {error.strerror}") from error


def _read(file: Path) -> str:
    if file.is_dir():
        raise TargetError(f"{file} is a folder; name a file")
    if not file.exists():
        raise TargetError(f"there is no file {file}")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TargetError(f"{file} is not a text file: {error}") from error
    except OSError as error:
        raise TargetError(f"cannot read {file}: {error.strerror}") from error


def _console() -> Console:
    """Returns a console as wide as the report: in a narrower one, or a pipe, it would wrap."""
    console = Console()
    return console if console.width >= report.WIDTH else Console(width=report.WIDTH)


@contextlib.contextmanager
def _told(*, quiet: bool, show_traceback: bool) -> Iterator[Interrupts]:
    """Shows progress, lets Ctrl-C end a search, and prints what ends the command as one line.

    Errors that you can fix set the exit code; others are raised.
    """
    console = Console(stderr=True, soft_wrap=True)
    with _logged(quiet=quiet), interrupts() as interrupted:
        try:
            yield interrupted
            return
        except KeyboardInterrupt:
            code, lines = _EXIT_INTERRUPTED, ("interrupted",)
        except (AutockptError, ValueError, TypeError) as error:
            is_failure = isinstance(error, AutockptError)
            if not is_failure and not _raised_here(error):
                raise
            if show_traceback:
                traceback.print_exception(error)
            code = _EXIT_FAILED if is_failure else _EXIT_USAGE
            lines = () if show_traceback else (f"error: {error}", *getattr(error, "__notes__", ()))
            if interrupted.has_stopped and isinstance(error, BudgetError):
                code, lines = _EXIT_INTERRUPTED, ("search stopped before a plan was found",)
        for line in lines:
            console.print(line, markup=False, highlight=False)
        raise typer.Exit(code)


@contextlib.contextmanager
def _logged(*, quiet: bool) -> Iterator[None]:
    """Prints to standard error what is logged if there is no terminal to draw on."""
    logger = logging.getLogger("autockpt")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("autockpt: %(message)s"))
    before = logger.level
    if not quiet:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _say_if_stopped(interrupted: Interrupts) -> None:
    if interrupted.has_stopped:
        typer.echo("search stopped: the best plan so far follows", err=True)


def _raised_here(error: BaseException) -> bool:
    """Whether autockpt raised the error, and not code of the user."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raiser = frames[-1].f_globals.get("__name__", "") if frames else ""
    return raiser.partition(".")[0] in ("autockpt", "autockpt_solvers")


def main() -> None:
    """Runs the command line."""
    # Some builds of torch print a line on standard error whenever the profiler starts.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    _app()
