"""The command line: all commands, their examples, and how a wrong one is told.

Modules of commands import torch and what needs it only once a command runs, so that help and
errors of usage come at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

import autockpt
from autockpt.command import (
    apply,
    bench,
    cache,
    demo,
    diff,
    doctor,
    explain,
    fit,
    graph,
    max_batch,
    monitor,
    pareto,
    plan,
    solve,
    verify,
)
from autockpt.command.grammar.groups import spread
from autockpt.command.running import exits
from autockpt.command.running.streams import tell

# What typer raises for an option or a command that is wrong.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
_EXIT_CODES = (
    "Exit codes: 0 fits (or done), 1 a bug in autockpt, 2 an argument or a file is wrong, 3 does "
    "not fit, 4 cannot be captured, 130 interrupted, 141 the pipe was closed."
)

_app = typer.Typer(
    name="autockpt",
    help="Optimal activation checkpointing for PyTorch.",
    epilog=f"Example:\n\nautockpt plan zoo:gpt2 --budget 40%\n\n{_EXIT_CODES}",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _add(
    panel: str,
    command: Callable[..., None],
    examples: tuple[str, ...],
    context: dict[str, bool] | None = None,
) -> None:
    text = "Examples:\n\n" + "\n\n".join(examples).replace("[", "\\[")
    name = command.__name__.replace("_", "-")
    _app.command(name, epilog=text, rich_help_panel=panel, context_settings=context)(
        spread(command)
    )


_PLAN, _RUN, _READ = "Before you train", "Run training steps", "Understand a plan"
_FILES = "Files and the engine"
_add(_PLAN, plan.plan, plan.EXAMPLES)
_add(_PLAN, fit.fit, fit.EXAMPLES)
_add(_PLAN, max_batch.max_batch, max_batch.EXAMPLES)
_add(_PLAN, pareto.pareto, pareto.EXAMPLES)
_add(_READ, explain.explain, explain.EXAMPLES)
_add(_READ, apply.apply, apply.EXAMPLES)
_add(_READ, diff.diff, diff.EXAMPLES)
_add(_RUN, verify.verify, verify.EXAMPLES)
_add(_RUN, monitor.monitor, monitor.EXAMPLES, monitor.CONTEXT)
_add(_RUN, demo.demo, demo.EXAMPLES)
_add(_FILES, bench.bench, bench.EXAMPLES)
_add(_FILES, graph.graph, graph.EXAMPLES)
_add(_FILES, solve.solve, solve.EXAMPLES)
_add(_FILES, doctor.doctor, doctor.EXAMPLES)
_app.add_typer(cache.app, name="cache", rich_help_panel=_FILES)


@_app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(autockpt.__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Runs the command line."""
    # Some builds of torch print a line on standard error whenever the profiler starts.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    try:
        code = _run()
    except BrokenPipeError:
        code = exits.CLOSED_PIPE
    except SystemExit as end:  # of rich, while help is printed
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        code = exits.CLOSED_PIPE
    sys.exit(_written(code))


def _run() -> int:
    try:
        code = _app(prog_name="autockpt", standalone_mode=False)
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        command = "autockpt" if context is None else context.command_path
        message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
        tell(f"error: {message.rstrip('.')}; see {command} --help")
        return exits.USAGE
    except typer.Abort:
        return exits.INTERRUPTED
    return code if isinstance(code, int) else exits.FITS


def _written(code: int) -> int:
    """Writes what is still to be written; if nobody reads it, that is the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # it was closed before Python began
            continue
        try:
            stream.flush()
        except BrokenPipeError:
            code = exits.CLOSED_PIPE
            # Python flushes once more as it ends, and would complain.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code
