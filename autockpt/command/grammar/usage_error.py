"""Errors that you can mend: an argument that cannot be used, or code of yours that fails."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

import autockpt

_OURS = Path(autockpt.__file__).resolve().parent
_INSTALLED = tuple(
    Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib")
)


class TargetError(ValueError):
    """A target does not lead to a model and its inputs, or another argument cannot be used."""


class UserCodeError(TargetError):
    """Your code failed while autockpt called it; the message has its file and line."""

    def __init__(self, error: BaseException, what: str) -> None:
        place = place_of(error)
        kind, reason = type(error).__name__, " ".join(str(error).split())
        if isinstance(error, SyntaxError):
            place, reason = f"{error.filename}:{error.lineno}", error.msg
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            kind, reason = "ModuleNotFoundError", f"no module {error.name!r}; install it first"
        told = f"{kind}: {reason}" if reason else kind
        super().__init__(f"{what} failed at {place}: {told}" if place else f"{what} failed: {told}")


def place_of(error: BaseException) -> str | None:
    """Returns the last line of your code that an error came through, as `file.py:3`."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_users(frame.filename):
            return f"{frame.filename}:{frame.lineno}"
    return None


def is_users(filename: str) -> bool:
    """Whether a file is neither autockpt's nor installed."""
    file = Path(filename)
    if not file.is_file():
        return False
    file = file.resolve()
    return not any(file.is_relative_to(folder) for folder in (_OURS, *_INSTALLED))
