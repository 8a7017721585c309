"""What ends a command: an exit code, and what to print of an error."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from dataclasses import dataclass

from autockpt.command.grammar.usage_error import UserCodeError, place_of
from autockpt.command.running import exits

_OUTPUT_FAILED = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
_REPORT = "please report it with the output of the same command with --traceback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How an error ends a command.

    Attributes:
        code: The exit code.
        lines: What to print on standard error.
    """

    code: int
    lines: tuple[str, ...]


def failure_of(error: Exception) -> Failure:
    """Returns what an error means for you: each is one line, and a line for each of its notes."""
    from autockpt import errors
    from autockpt_solvers import MethodError, ScheduleError

    notes = tuple(_on_one_line(note) for note in getattr(error, "__notes__", ()))
    own = f"error: {_on_one_line(str(error))}"
    match error:
        case errors.BudgetError():
            return Failure(code=exits.DOES_NOT_FIT, lines=(own, *notes))
        case errors.CaptureError() | errors.NotTrainableError():
            return Failure(code=exits.NOT_CAPTURED, lines=(own, *notes))
        case errors.PlanMismatchError() | errors.TorchVersionError() | errors.CostError():
            return Failure(code=exits.USAGE, lines=(own, *notes))
        case errors.AutockptError():
            return Failure(code=exits.BUG, lines=(own, *notes))
        case MethodError():
            return Failure(code=exits.USAGE, lines=(own, *notes))
        case ScheduleError():  # no schedule comes from you
            return _bug(error, notes)
    if _is_out_of_memory(error):
        reason = _on_one_line(str(error)).partition(". ")[0] or type(error).__name__
        told = f"error: this machine ran out of memory: {reason}; use a smaller batch or --device"
        return Failure(code=exits.DOES_NOT_FIT, lines=(f"{told} meta",))
    if isinstance(error, OSError) and error.errno in _OUTPUT_FAILED and place_of(error) is None:
        return Failure(
            code=exits.USAGE,
            lines=(f"error: cannot write the output: {os.strerror(error.errno)}",),
        )
    if isinstance(error, ValueError | TypeError | OSError) and _raised_here(error):
        return Failure(code=exits.USAGE, lines=(own, *notes))
    if place_of(error) is not None:
        told = f"error: {UserCodeError(error, 'your code')}"
        return Failure(code=exits.USAGE, lines=(told, *notes))
    return _bug(error, notes)


def _bug(error: Exception, notes: tuple[str, ...]) -> Failure:
    what = f"{type(error).__name__}: {_on_one_line(str(error))}".rstrip(": ")
    return Failure(code=exits.BUG, lines=(f"error: a bug in autockpt: {what}; {_REPORT}", *notes))


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return isinstance(error, MemoryError) or (
        torch is not None and isinstance(error, torch.OutOfMemoryError)
    )


def _raised_here(error: BaseException) -> bool:
    """Whether autockpt raised the error, and not code that it calls."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raiser = frames[-1].f_globals.get("__name__", "") if frames else ""
    return raiser.partition(".")[0] in ("autockpt", "autockpt_solvers")


def _on_one_line(text: str) -> str:
    return " ".join(text.split())
