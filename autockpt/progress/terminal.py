"""The display on a terminal: one line that renews itself, and is gone at the end.

rich measures and colors the line; it is written without ``rich.live``, which replaces
``sys.stdout`` and ``sys.stderr`` while it is active. Those belong to you, and Dynamo may be tracing
code that uses them. A line of a tqdm bar is overwritten, and the bar draws itself again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import TextIO

import rich
from rich.console import Console
from rich.file_proxy import FileProxy
from rich.text import Text

from autockpt.progress.stages import Stage

_ERASE = "\r\x1b[2K"
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ASCII_FRAMES = "-\\|/"


class Terminal:
    """A line on the terminal that standard error writes to; at most one exists at a time."""

    interval_s = 0.2
    _opening = threading.Lock()
    # Weak: if an interrupt comes before whoever asked has the display, nobody can close it.
    _shown: weakref.ref[Terminal] | None = None

    @classmethod
    def open(cls) -> Terminal | None:
        """Return a display, if standard error is a terminal that nobody else draws on."""
        stream = sys.stderr
        if not _is_terminal(stream) or _is_taken():
            return None
        console = Console(file=stream)
        if console.is_dumb_terminal or console.legacy_windows:
            return None
        with cls._opening:
            if cls.shown() is not None:
                return None
            display = cls(stream, console)
            cls._shown = weakref.ref(display)
        return display

    @classmethod
    def shown(cls) -> Terminal | None:
        """The display that exists, if any."""
        return None if cls._shown is None else cls._shown()

    def __init__(self, stream: TextIO, console: Console) -> None:
        self._stream = stream
        self._console = console
        self._is_unicode = console.encoding.lower().startswith("utf")
        self._frames = _FRAMES if self._is_unicode else _ASCII_FRAMES
        self._num_shown = 0
        self._is_drawn = False
        self._lock = threading.RLock()

    def show(self, name: str, stage: Stage, now_s: float) -> None:
        """Draw the line anew."""
        frame = self._frames[self._num_shown % len(self._frames)]
        self._num_shown += 1
        text = Text.assemble((frame, "cyan"), f" autockpt {name}: {stage.text(now_s)}")
        # A line that fills the last column would wrap.
        text.truncate(self._width() - 1, overflow="ellipsis" if self._is_unicode else "crop")
        with self._lock:
            with self._console.capture() as drawn:
                self._console.print(text, end="", no_wrap=True, highlight=False, crop=False)
            self._is_drawn = self._write(_ERASE + drawn.get())

    def close(self, name: str, outcome: str, *, is_slow: bool) -> None:
        """Erase the line; if planning was slow, leave what came out of it."""
        try:
            with self._lock:
                self.erase()
                if outcome and is_slow:
                    self._write(f"{_ERASE}autockpt: {name} {outcome}\n")
        finally:
            Terminal._shown = None

    def erase(self) -> None:
        """Erase the line, if it is drawn."""
        if self._is_drawn:
            self._write(_ERASE)
            self._is_drawn = False

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """Keep the line away while something else is written."""
        with self._lock:
            self.erase()
            yield

    def _width(self) -> int:
        """Columns of the terminal: ``COLUMNS``, which rich reads, stays when its window changes."""
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or self._console.width
        except (OSError, ValueError):  # not a file of the system's, or closed
            return self._console.width

    def _write(self, text: str) -> bool:
        encoding = self._console.encoding
        try:
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):  # closed, or gone with its window
            return False
        return True


@contextlib.contextmanager
def line_set_aside() -> Iterator[None]:
    """Keep the line away while something else is written to the terminal, from any thread."""
    shown = Terminal.shown()
    if shown is None:
        yield
        return
    with shown.set_aside():
        yield


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _is_taken() -> bool:
    """Whether a live display of rich is active; it redirects the streams unless told not to."""
    if isinstance(sys.stderr, FileProxy) or isinstance(sys.stdout, FileProxy):
        return True
    console = rich.get_console()
    return bool(getattr(console, "_live_stack", None) or getattr(console, "_live", None))
