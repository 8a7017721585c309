"""Exceptions that your own signal handlers raise: they are no failure of what they interrupt.

Python runs a signal handler between any two steps of the main thread. So an exception that a
handler raises, such as a `TimeoutError` for SIGALRM, comes out of whatever autockpt is doing then,
and must not be taken for a bug or for a model that cannot be captured.
"""

from __future__ import annotations

import functools
import signal
import traceback
from types import CodeType


def handlers_code() -> frozenset[CodeType]:
    """The code of all signal handlers that are installed now."""
    codes = (_code_of(signal.getsignal(number)) for number in signal.valid_signals())
    return frozenset(code for code in codes if code is not None)


def is_by_a_handler(error: BaseException, known: frozenset[CodeType] = frozenset()) -> bool:
    """Whether a signal handler raised an exception, or code that the handler has called.

    Args:
        error: The exception.
        known: Handlers that were installed before; one may put another in its place first.
    """
    codes = known | handlers_code()
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


def _code_of(handler: object) -> CodeType | None:
    """The code that runs if a handler is called; None if that is not written in Python."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    for candidate in (handler, getattr(handler, "__func__", None), type(handler).__call__):
        code = getattr(candidate, "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None
