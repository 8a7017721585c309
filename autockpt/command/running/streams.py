"""Where a command writes: its answer to standard output, everything else to standard error.

While a command runs, `print` in your code writes to standard error too, so that an answer in a pipe
is nothing but the answer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TextIO

from rich.console import Console, RenderableType

_NARROWEST, _WIDEST = 60, 200
_answers: ContextVar[TextIO | None] = ContextVar("answers", default=None)


class _Console(Console):
    """A console of rich, for which a closed pipe is an error as for any other file."""

    def on_broken_pipe(self) -> None:
        """Raise the error that rich would end the process for."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def answers() -> TextIO:
    """Returns the stream that answers go to."""
    return _answers.get() or sys.stdout


def console_of_answers() -> Console:
    """Returns a console as wide as reports may be."""
    console = _Console(file=answers())
    console.width = min(max(console.width, _NARROWEST), _WIDEST)
    return console


def console_of_errors() -> Console:
    """Returns a console for everything else; it breaks no line."""
    return _Console(stderr=True, soft_wrap=True)


def width() -> int:
    """Returns how wide a report may be: as the terminal, within what reports can use."""
    return console_of_answers().width


def say(text: str = "") -> None:
    """Prints lines of an answer."""
    answers().write(f"{text}\n")


def tell(text: str) -> None:
    """Prints lines that are no answer, on standard error."""
    sys.stderr.write(f"{text}\n")


def show(report: RenderableType) -> None:
    """Prints a report as wide as the terminal; in a pipe or a file without blanks at line ends."""
    console = console_of_answers()
    if console.is_terminal:
        console.print(report, crop=False)
        return
    with console.capture() as capture:
        console.print(report, crop=False)
    say("\n".join(line.rstrip() for line in capture.get().splitlines()))


@contextlib.contextmanager
def only_answers() -> Iterator[None]:
    """Lets nothing but answers reach standard output; what your code prints goes beside it."""
    token = _answers.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _answers.reset(token)
