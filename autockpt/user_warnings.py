"""Warnings that point at your line of code, however deep in autockpt they are raised."""

from __future__ import annotations

import inspect
import warnings
from types import FrameType

from autockpt.progress import line_set_aside

# Whoever calls a module or enters a context of autockpt goes through these.
_NOT_THE_USERS = frozenset({"autockpt", "autockpt_solvers", "contextlib", "torch"})


def warn_user(message: str) -> None:
    """Raise a `UserWarning` at the line of the user's code that led to this call.

    It is the innermost line outside of autockpt and torch. `warnings.warn` can skip packages by
    itself from Python 3.12 on (``skip_file_prefixes``).

    Args:
        message: The text.
    """
    frame = _users_frame()
    with line_set_aside():
        warnings.warn_explicit(
            message,
            UserWarning,
            filename=frame.f_code.co_filename,
            lineno=frame.f_lineno,
            module=frame.f_globals.get("__name__"),
            registry=frame.f_globals.setdefault("__warningregistry__", {}),
        )


def _users_frame() -> FrameType:
    frame = inspect.currentframe()
    assert frame is not None
    while frame.f_back is not None and not _is_users(frame):
        frame = frame.f_back
    return frame


def _is_users(frame: FrameType) -> bool:
    # Code that torch generates has no name.
    package = str(frame.f_globals.get("__name__", "torch")).partition(".")[0]
    return package not in _NOT_THE_USERS
