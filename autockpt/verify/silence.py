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

from autockpt.torch_private.messages import LOGGER_METHODS, silence
from autockpt.torch_private.own_filters import ignored

_OWN = "autockpt"
_PLACES: tuple[tuple[Any, str], ...] = (
    (builtins, "print"),
    *((logging.Logger, name) for name in ("handle", *LOGGER_METHODS)),
)


class _Depth(threading.local):
    """How often this thread has asked for silence."""

    value = 0


_depth = _Depth()
_lock = threading.Lock()
_requests: list[int] = []  # of all threads together, by the thread
_before: list[tuple[Any, str, Any, Any]] = []  # where, by what name, what was there, what is


@contextlib.contextmanager
def silenced(forward: Callable[..., Any] | None = None) -> Iterator[None]:
    """Drop messages of the model in this thread.

    Args:
        forward: What runs. If it is compiled, `print` stays as it is, because Dynamo would compile
            again if it changed; graphs themselves know that they must be silent.
    """
    with silence():
        if hasattr(forward, "compiled"):
            yield
            return
        with ignored(), _dropping():
            yield


@contextlib.contextmanager
def _dropping() -> Iterator[None]:
    """Replace functions while any thread wants silence; they drop what such threads say."""
    thread = threading.get_ident()
    with _lock:
        if not _requests:
            _replace()
        _requests.append(thread)
    _depth.value += 1
    try:
        yield
    finally:
        _depth.value -= 1
        with _lock:
            _requests.remove(thread)
            if not _requests:
                _put_back()


def _replace() -> None:
    for owner, name in _PLACES:
        if hasattr(owner, name):
            original = getattr(owner, name)
            _before.append((owner, name, original, _quiet(original)))
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:
            _before.append((sys, name, stream, _Stream(stream)))
    for owner, name, _, replacement in _before:
        setattr(owner, name, replacement)


def _put_back() -> None:
    for owner, name, original, replacement in _before:
        # Unless somebody has replaced it meanwhile.
        if getattr(owner, name) is replacement:
            setattr(owner, name, original)
    _before.clear()


def _quiet(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        is_own_log = bool(args) and isinstance(args[0], logging.Logger) and args[0].name == _OWN
        return None if _depth.value and not is_own_log else original(*args, **kwargs)

    return call


class _Stream:
    """A stream that drops what threads write that want silence."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        return len(text) if _depth.value else int(self._stream.write(text))
