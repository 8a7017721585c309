"""Silences what a model prints, warns and logs while autockpt runs steps that are not yours.

The same text must appear once for a call of yours: not in steps that are tried, traced or measured,
and not again when a part of the forward is recomputed. Other threads are left alone, apart from
their warnings.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from autockpt.torch_private.messages import LOGGER_METHODS, silence
from autockpt.torch_private.own_filters import ignored

_OWN = "autockpt"


@contextlib.contextmanager
def silenced(forward: Callable[..., Any] | None = None) -> Iterator[None]:
    """Drop messages of the model in this thread.

    Args:
        forward: What runs. If it is compiled, `print` stays as it is, because Dynamo would compile
            again if it changed; graphs themselves know that they must be silent.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(silence())
        if not hasattr(forward, "compiled"):
            stack.enter_context(ignored())
            stack.enter_context(_dropped(builtins, "print"))
            for name in ("stdout", "stderr"):
                if getattr(sys, name) is not None:
                    stream = _Stream(getattr(sys, name))
                    stack.enter_context(mock.patch.object(sys, name, stream))
            for name in ("handle", *LOGGER_METHODS):
                if hasattr(logging.Logger, name):
                    stack.enter_context(_dropped(logging.Logger, name))
        yield


class _Stream:
    """A stream that drops what this thread writes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._thread = threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread:
            return len(text)
        return int(self._stream.write(text))


@contextlib.contextmanager
def _dropped(owner: Any, name: str) -> Iterator[None]:
    """Let calls of a function in this thread do nothing; autockpt's own logs stay."""
    by_itself = getattr(owner, name)
    thread = threading.get_ident()

    def call(*args: Any, **kwargs: Any) -> Any:
        own_log = isinstance(args[0], logging.Logger) and args[0].name == _OWN if args else False
        if threading.get_ident() == thread and not own_log:
            return None
        return by_itself(*args, **kwargs)

    with mock.patch.object(owner, name, call):
        yield
