"""Ctrl-C on the command line: once to end a search and keep its best plan, twice to quit.

autockpt as a library changes no signal handler; here it is the program.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """What Ctrl-C has done so far.

    Attributes:
        has_stopped: Whether it has ended a search.
    """

    def __init__(self) -> None:
        self.has_stopped = False

    def __call__(self, _: int, __: FrameType | None) -> None:
        """Handle the signal: end the search that runs; raise KeyboardInterrupt if none does."""
        # Not imported here: nothing searches before something else has.
        progress = sys.modules.get("autockpt.progress")
        # While it is being imported, it is there without its functions.
        stop_search = getattr(progress, "stop_search", None)
        if stop_search is None or not stop_search():
            raise KeyboardInterrupt
        self.has_stopped = True


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Let Ctrl-C end a search first; a handler other than Python's own, such as nohup's, stays."""
    handle = Interrupts()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield handle
        return
    try:
        signal.signal(signal.SIGINT, handle)
        yield handle
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
