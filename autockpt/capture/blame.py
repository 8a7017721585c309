"""Whose failure it is when a capture fails: the model's, or autockpt's own.

A model that cannot be captured is no bug, so it is a `CaptureError` and the next way to plan is
tried. A bug of autockpt's must not look like that: it is an `InternalError`. Code of the model and
code of autockpt call each other here: the forward runs into hooks and dispatch modes, and Dynamo
calls the recorder while it traces. So both sides mark what is theirs.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from autockpt.errors import AutockptError, CaptureError, InternalError, internal_errors
from autockpt.torch_private.refusals import REFUSALS, root_cause, traced_lines, wrapped
from autockpt.user_code import is_autockpts, raised_at, users_place
from autockpt.user_signals import handlers_code, is_by_a_handler

_UNEXPECTED = re.compile(
    r"(?P<function>[\w.<>]+)\(\) got an unexpected keyword argument '(?P<keyword>\w+)'"
)
_REFUSED_CALL = re.compile(
    r"forward\(\) (got an unexpected keyword|missing \d+ required|takes .* but|got multiple values)"
)


@contextlib.contextmanager
def models_code(where: str, what: str) -> Iterator[None]:
    """Run code of the model, or let torch trace it: failures are the model's.

    Args:
        where: The model's class, or what else fails.
        what: What the failure means, such as `"its forward cannot be traced"`.

    Raises:
        CaptureError: The code fails.
        InternalError: What fails is code of autockpt that the model's code runs into.
        Exception: A signal handler of yours raised it.
    """
    handlers = handlers_code()
    try:
        yield
    except AutockptError:
        raise
    except Exception as error:
        own = wrapped(error, AutockptError)
        if own is not None:
            raise own from own.__cause__
        cause = root_cause(error)
        if is_by_a_handler(cause, handlers):
            raise cause from None  # torch may have wrapped it
        if is_raised_by_autockpt(cause):
            raise InternalError(stage="capture", cause=cause) from error
        place = place_of(error)
        at = f"{where} ({place})" if place else where
        raise CaptureError(where=at, reason=f"{what}: {first_line(cause)}") from error


@contextlib.contextmanager
def own_code(stage: str) -> Iterator[None]:
    """Run code of autockpt on one of the model's graphs: failures are bugs.

    Args:
        stage: What autockpt is doing, such as `"capture"`.

    Raises:
        CaptureError: torch does not support what the graph does.
        InternalError: Anything else fails.
    """
    with internal_errors(stage):
        try:
            yield
        except REFUSALS as error:
            raise CaptureError(where="a graph of the model", reason=first_line(error)) from error


def place_of(error: BaseException) -> str:
    """The line of the user's code that an error comes from; empty if it comes from elsewhere."""
    lines = traced_lines(error)
    return users_place(lines) if lines else raised_at(root_cause(error))


def unexpected_keyword(error: BaseException) -> tuple[str, str] | None:
    """The name of a function, and the keyword that it does not take, if that is the failure."""
    cause = root_cause(error)
    found = _UNEXPECTED.search(str(cause)) if isinstance(cause, TypeError) else None
    return None if found is None else (found["function"], found["keyword"])


def is_raised_by_autockpt(error: BaseException) -> bool:
    """Whether the innermost frame is autockpt's; its zoo of models counts as the user's code."""
    trace = error.__traceback__
    if trace is None or isinstance(error, (*REFUSALS, MemoryError, Warning)):
        return False
    if isinstance(error, TypeError) and _REFUSED_CALL.search(str(error)):
        return False  # autockpt calls the forward, which does not take the inputs
    while trace.tb_next is not None:
        trace = trace.tb_next
    return is_autockpts(trace.tb_frame.f_code.co_filename)


def first_line(error: BaseException) -> str:
    """The type of an error, and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
