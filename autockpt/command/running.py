"""How every command runs: what it shows, what ends it, and the files it reads and writes."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import typer
from rich.console import Console

from autockpt.command.interrupts import Interrupts, interrupts
from autockpt.command.target import TargetError
from autockpt.errors import AutockptError, BudgetError
from autockpt.report import tables as report

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DOES_NOT_FIT = 3
EXIT_INTERRUPTED = 130  # as shells report it: 128 and the number of SIGINT


def check_writable(file: Path) -> None:
    """Fails before the work is done if its result cannot be written."""
    if not file.parent.is_dir():
        raise TargetError(f"cannot write {file}: there is no folder {file.parent}")
    if file.is_dir():
        raise TargetError(f"cannot write {file}: it is a folder; name a file")


def write(file: Path, text: str) -> None:
    """Writes a text file.

    Raises:
        TargetError: If it cannot be written.
    """
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TargetError(f"cannot write {file}: {error.strerror}") from error


def read(file: Path) -> str:
    """Returns the text of a file.

    Raises:
        TargetError: If it cannot be read.
    """
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


def console() -> Console:
    """Returns a console as wide as the report: in a narrower one, or a pipe, it would wrap."""
    console = Console()
    return console if console.width >= report.WIDTH else Console(width=report.WIDTH)


@contextlib.contextmanager
def told(*, quiet: bool, show_traceback: bool) -> Iterator[Interrupts]:
    """Shows progress, lets Ctrl-C end a search, and prints what ends the command as one line.

    Errors that you can fix set the exit code; others are raised.
    """
    console = Console(stderr=True, soft_wrap=True)
    with _logged(quiet=quiet), interrupts() as interrupted:
        try:
            yield interrupted
            return
        except KeyboardInterrupt:
            code, lines = EXIT_INTERRUPTED, ("interrupted",)
        except (AutockptError, ValueError, TypeError) as error:
            is_failure = isinstance(error, AutockptError)
            if not is_failure and not _raised_here(error):
                raise
            if show_traceback:
                traceback.print_exception(error)
            code = EXIT_FAILED if is_failure else EXIT_USAGE
            lines = () if show_traceback else (f"error: {error}", *getattr(error, "__notes__", ()))
            if interrupted.has_stopped and isinstance(error, BudgetError):
                code, lines = EXIT_INTERRUPTED, ("search stopped before a plan was found",)
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


def say_if_stopped(interrupted: Interrupts) -> None:
    """Says on standard error that Ctrl-C ended the search, if it did."""
    if interrupted.has_stopped:
        typer.echo("search stopped: the best plan so far follows", err=True)


def _raised_here(error: BaseException) -> bool:
    """Whether autockpt raised the error, and not code of the user."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raiser = frames[-1].f_globals.get("__name__", "") if frames else ""
    return raiser.partition(".")[0] in ("autockpt", "autockpt_solvers")
