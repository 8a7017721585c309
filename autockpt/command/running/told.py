"""How every command runs: what it shows, and what ends it."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator

import typer
from rich.console import Console

from autockpt.command.grammar.options import Shown
from autockpt.command.grammar.usage_error import place_of
from autockpt.command.running import exits
from autockpt.command.running.failures import failure_of
from autockpt.command.running.interrupts import Interrupts, interrupts
from autockpt.command.running.streams import console_of_errors, only_answers, tell
from autockpt.report.words.inert import inert


@contextlib.contextmanager
def status(*, is_shown: bool) -> Iterator[Callable[[str], None]]:
    """Shows on a terminal what is done; yields what to call with each stage."""
    console = console_of_errors()
    if not is_shown or not console.is_terminal:
        yield lambda _: None
        return
    # Started with the first stage: planning has a display of its own.
    display = console.status("")

    def stage(text: str) -> None:
        display.update(text)
        display.start()

    try:
        yield stage
    finally:
        display.stop()


@contextlib.contextmanager
def told(shown: Shown, target: str = "", *, owns_output: bool = True) -> Iterator[Interrupts]:
    """Shows progress, lets Ctrl-C end a search, and prints what ends the command as one line.

    Args:
        shown: What to show.
        target: What the command plans, if it plans a model.
        owns_output: Whether nothing but the command's answer may reach standard output.

    Raises:
        typer.Exit: With the code of `exits` that says what ended the command.
    """
    errors = console_of_errors()
    alone = only_answers() if owns_output else contextlib.nullcontext()
    with alone, _logged(quiet=shown.quiet), _warned(errors), interrupts() as interrupted:
        try:
            yield interrupted
            return
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            code = exits.INTERRUPTED
            lines: tuple[str, ...] = ("interrupted",)
        except SystemExit as error:  # the code of a target, a method or a loss
            code = exits.USAGE
            reason = f"it called sys.exit({error.code!r})"
            lines = (f"error: your code ended at {place_of(error) or 'a place unknown'}: {reason}",)
        except Exception as error:  # noqa: BLE001 - whatever it is, you get a line and a code
            failure = failure_of(error)
            code, lines = failure.code, (*failure.lines, *_of_made_batch(target, failure.code))
            if interrupted.has_stopped and code == exits.DOES_NOT_FIT:
                code, lines = exits.INTERRUPTED, ("search stopped before a plan was found",)
            if shown.show_traceback:
                traceback.print_exception(error)
        for line in lines:
            errors.print(inert(line), markup=False, highlight=False)
        raise typer.Exit(code)


def _of_made_batch(target: str, code: int) -> tuple[str, ...]:
    """What else may be the reason that a model cannot be captured, if autockpt made its batch."""
    if code != exits.NOT_CAPTURED or not target.startswith("hf:"):
        return ()
    return (
        f"autockpt made the batch for {target}: if that does not fit the model, write a function "
        "that returns the model and its inputs, and give file.py:function",
    )


@contextlib.contextmanager
def _warned(errors: Console) -> Iterator[None]:
    """Prints warnings as one line each, without the place in autockpt that raised them."""

    def show_warning(message: Warning | str, *_: object, **__: object) -> None:
        text = " ".join(str(message).split())
        errors.print(f"warning: {text}", markup=False, highlight=False)

    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        yield


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
        tell("search stopped: the best plan so far follows")
