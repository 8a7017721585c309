"""Ctrl-C that Python would drop is raised again."""

from __future__ import annotations

import _thread
import contextlib
import sys
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
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            # Raised now, it would come out of this hook, and be ignored again.
            _thread.start_new_thread(_interrupt_later, ())
        else:
            before(unraisable)

    try:
        sys.unraisablehook = hook
        yield
    finally:
        if sys.unraisablehook is hook:
            sys.unraisablehook = before


def _interrupt_later() -> None:
    time.sleep(_AGAIN_S)
    _thread.interrupt_main()
