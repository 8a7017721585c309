"""Exceptions by which torch says that it cannot trace a model, and what Dynamo wraps.

Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

from typing import TypeVar

from torch._dynamo.exc import TorchDynamoException, Unsupported, UserError
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

__all__ = [
    "REFUSALS",
    "is_compilation_error",
    "root_cause",
    "traced_lines",
    "wrapped",
]

_E = TypeVar("_E", bound=Exception)

# What a model does that tracing or fake tensors do not support. Operators without a kernel for fake
# tensors, and layouts without a storage, raise NotImplementedError.
REFUSALS: tuple[type[Exception], ...] = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    GuardOnDataDependentSymNode,
    NotImplementedError,
    Unsupported,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
    UserError,
)


def is_compilation_error(error: Exception) -> bool:
    """Whether Dynamo raised it: a reason to split a graph, a bug, a backend that failed."""
    return isinstance(error, TorchDynamoException)


def root_cause(error: BaseException) -> BaseException:
    """The exception under Dynamo's wrapping, down the chain of causes."""
    while True:
        inner = _under(error)
        if inner is None or inner is error:
            return error
        error = inner


def wrapped(error: BaseException, kind: type[_E]) -> _E | None:
    """The first exception of a kind in the chain of causes of `error`, itself included."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, kind):
            return current
        current = _under(current)
    return None


def traced_lines(error: BaseException) -> tuple[tuple[str, int], ...]:
    """The files and lines that Dynamo was tracing, outermost first; empty if it was not tracing."""
    current: BaseException | None = error
    while current is not None:
        stack = getattr(current, "real_stack", None)
        if stack:
            return tuple((frame.filename, frame.lineno or 0) for frame in stack)
        current = _under(current)
    return ()


def _under(error: BaseException) -> BaseException | None:
    inner = getattr(error, "inner_exception", None) or error.__cause__
    return inner if isinstance(inner, BaseException) else None
