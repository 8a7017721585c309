"""What Ctrl-C must not break: the hook for lost interrupts, and the line on the terminal."""

from __future__ import annotations

import io
import sys
import threading
from typing import Any

import pytest

from autockpt.progress import current, terminal
from autockpt.progress.interrupted import interrupts_kept


def test_the_hook_is_gone_after_plannings_that_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A in, B in, A out, B out: A's hook was put back by B, and stayed for good."""
    own: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", own.append)
    before = sys.unraisablehook
    first, second = interrupts_kept(), interrupts_kept()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.unraisablehook is not before  # the second still needs it
    second.__exit__(None, None, None)
    assert sys.unraisablehook is before


def test_a_hook_that_was_put_around_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", got.append)
    with interrupts_kept():
        inner = sys.unraisablehook

        def around(unraisable: Any) -> None:
            inner(unraisable)

        monkeypatch.setattr(sys, "unraisablehook", around)
    assert sys.unraisablehook is around
    for kind in (ValueError, KeyboardInterrupt):
        unraisable = type("Unraisable", (), {"exc_type": kind})
        with interrupts_kept():  # a second hook, over one that is not needed any more
            if kind is ValueError:
                sys.unraisablehook(unraisable)
        sys.unraisablehook(unraisable)
    kinds = [unraisable.exc_type for unraisable in got]
    assert kinds == [ValueError, ValueError, KeyboardInterrupt]


def test_a_display_is_closed_if_an_interrupt_comes_before_it_shows_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The place on the terminal stayed taken, and later plannings showed nothing."""

    class Shown:
        interval_s = 1.0
        num_closed = 0

        def close(self, *_: object, **__: object) -> None:
            self.num_closed += 1

    shown = Shown()

    def interrupted(**_: object) -> threading.Thread:
        raise KeyboardInterrupt

    monkeypatch.delenv("AUTOCKPT_PROGRESS", raising=False)
    monkeypatch.setattr(current, "display_here", lambda: shown)
    monkeypatch.setattr(current.threading, "Thread", interrupted)
    with pytest.raises(KeyboardInterrupt), current.planning("Net", is_shown=True):
        pass
    assert shown.num_closed == 1


def test_a_display_that_nobody_has_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt may come just before whoever asked for the display has it."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(terminal, "_is_terminal", lambda _: True)
    monkeypatch.setattr(terminal, "_is_taken", lambda: False)
    display = terminal.Terminal.open()
    assert display is not None
    assert terminal.Terminal.open() is None
    del display
    again = terminal.Terminal.open()
    assert again is not None
    again.close("Net", "", is_slow=False)
