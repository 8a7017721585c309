"""Ctrl-C that Python would drop is raised again."""

from __future__ import annotations

import _thread
import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

_AGAIN_S = 0.005


@contextlib.contextmanager
def interrupts_kept() -> Iterator[None]:
    """Let no KeyboardInterrupt get lost in this context.

    Python ignores what the callback of a weak reference or a finalizer raises, KeyboardInterrupt
    included. torch has so many of them that, while it traces, about every tenth Ctrl-C arrives in
    one. Signal handlers are not touched: the interrupt is only raised once more.
    """
    inside = object()
    try:
        _shared.enter(inside)
        yield
    finally:
        _shared.leave(inside)


class _Hook:
    """Raises interrupts again while it is needed, and hands the rest to the hook before it."""

    def __init__(self) -> None:
        self.before = sys.unraisablehook
        self.is_needed = True  # it may stay under a hook that others have put around it

    def __call__(self, unraisable: Any) -> None:
        """Handle an exception that Python ignores."""
        if self.is_needed and issubclass(unraisable.exc_type, KeyboardInterrupt):
            # Raised now, it would come out of this hook, and be ignored again.
            _thread.start_new_thread(_interrupt_later, ())
        else:
            self.before(unraisable)


class _Shared:
    """One hook for all threads that plan.

    They may end in any order. If each put a hook of its own around the one that it found, the first
    to end could not take its hook away.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may plan, too
        self._inside: set[object] = set()
        self._hook: _Hook | None = None

    def enter(self, inside: object) -> None:
        """Install the hook, unless another context has done so."""
        with self._lock:
            self._inside.add(inside)
            if self._hook is None:
                self._hook = _Hook()
                sys.unraisablehook = self._hook

    def leave(self, inside: object) -> None:
        """Take the hook away if this was the last context that needed it."""
        with self._lock:
            self._inside.discard(inside)
            if self._hook is None or self._inside:
                return
            self._hook.is_needed = False
            if sys.unraisablehook is self._hook:
                sys.unraisablehook = self._hook.before
            self._hook = None


_shared = _Shared()


def _interrupt_later() -> None:
    time.sleep(_AGAIN_S)
    _thread.interrupt_main()
