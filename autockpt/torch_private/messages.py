"""What a forward prints, warns and logs, in the graphs that Dynamo makes of it.

Dynamo splits a graph at such a call, or drops the call. Here it notes the call instead, and what it
compiles makes all noted calls at the end of the graph: with the same arguments, in the same order,
from the same lines of code. Arguments must be constants; a call with any other splits the graph.
Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import functools
import inspect
import itertools
import logging
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

from autockpt.torch_private.own_filters import filters_lifted

_METHOD_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
    # Of model libraries.
    "warning_once": logging.WARNING,
    "warning_advice": logging.WARNING,
    "info_once": logging.INFO,
}
# Called whether or not the level is enabled, so that those that log once remember it.
LOGGER_METHODS = ("log", *_METHOD_LEVELS)
_FUNCTIONS = frozenset(
    {
        builtins.print,
        warnings.warn,
        logging.getLogger,
        logging.log,
        *(getattr(logging, name) for name in _METHOD_LEVELS if hasattr(logging, name)),
    }
)
_silence = threading.local()


class _NotConstantError(Exception):
    """An argument is known only when the graph runs."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """A line of code that is being traced."""

    filename: str
    line: int
    name: str
    namespace: dict[str, Any]

    def calling(self, inner: Callable[[], Any]) -> Callable[[], Any]:
        """What calls something as if from this line: warnings and loggers look for the line."""
        code = _from_a_line.__code__.replace(
            co_filename=self.filename, co_firstlineno=self.line, co_name=self.name
        )
        return functools.partial(types.FunctionType(code, self.namespace), inner)


_from_a_line = lambda inner: inner()  # noqa: E731 - all of it must be on one line


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    """A call that was noted; `frames` are the lines that led to it, innermost first."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    frames: tuple[_Frame, ...]

    def happen(self) -> None:
        args = tuple(map(_found, self.args))
        kwargs = {name: _found(value) for name, value in self.kwargs.items()}
        call: Callable[[], Any] = functools.partial(self.function, *args, **kwargs)
        for frame in self.frames:
            call = frame.calling(call)
        call()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Stream:
    """``sys.stdout`` or ``sys.stderr``, whatever it is when the graph runs."""

    name: str


_messages: dict[int, _Message] = {}
_numbers = itertools.count()


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Let graphs that run in this thread skip what they noted: the step is not yours."""
    before = is_silent()
    _silence.is_on = True
    try:
        yield
    finally:
        _silence.is_on = before


def is_silent() -> bool:
    """Whether graphs that run in this thread skip what they noted."""
    return getattr(_silence, "is_on", False)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def happen(number: int) -> None:
    """Make a call that was noted; what Dynamo compiles calls this."""
    if not is_silent():
        with filters_lifted():
            _messages[number].happen()


def moved_functions() -> set[Callable[..., Any]]:
    """Functions that Dynamo is to call after a graph, for its setting of that name."""
    import torch._dynamo.config as config

    return set(config.reorderable_logging_functions) | _FUNCTIONS


@contextlib.contextmanager
def messages_noted() -> Iterator[None]:
    """Let Dynamo note what it would otherwise split a graph at, or drop."""
    import torch._dynamo.config as config
    from torch._dynamo.variables.misc import DebuggingVariable, LoggingLoggerVariable
    from torch._dynamo.variables.user_defined import UserDefinedObjectVariable

    of_loggers = LoggingLoggerVariable.call_method
    of_objects = UserDefinedObjectVariable.call_method

    def call_function(self: Any, tx: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if self.value is logging.getLogger:
            return _logger(tx, args, kwargs)
        level = _METHOD_LEVELS.get(self.value.__name__, logging.CRITICAL)
        return _noted(tx, self.value, args, kwargs, level=level)

    def call_method(self: Any, tx: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        method = getattr(self.value, name, None)
        known = name == "log" or name in _METHOD_LEVELS
        ignored = config.ignore_logging_functions
        is_ignored = method in ignored or getattr(method, "__func__", None) in ignored
        if known and method is not None and not is_ignored:
            level = _METHOD_LEVELS.get(name, logging.CRITICAL)
            return _noted(tx, method, args, kwargs, level=level, logger=self.value)
        if name == "isEnabledFor" and len(args) == 1:
            _depend_on_level(tx, self)
            return _variable(self.value.isEnabledFor(args[0].as_python_constant()))
        return of_loggers(self, tx, name, args, kwargs)

    def write(self: Any, tx: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        stream = _stream(self.value)
        if stream is None or name not in ("write", "flush"):
            return of_objects(self, tx, name, args, kwargs)
        method = functools.partial(_on_stream, stream, name)
        _noted(tx, method, args, kwargs, level=logging.CRITICAL)
        return _variable(len(args[0].as_python_constant()) if name == "write" else None)

    with (
        mock.patch.object(DebuggingVariable, "call_function", call_function),
        mock.patch.object(LoggingLoggerVariable, "call_method", call_method),
        mock.patch.object(UserDefinedObjectVariable, "call_method", write),
    ):
        yield


def _logger(tx: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    from torch._dynamo.variables.misc import LoggingLoggerVariable

    try:
        values = [_constant(arg) for arg in args], {k: _constant(v) for k, v in kwargs.items()}
    except _NotConstantError:
        _split("logging.getLogger")
    return LoggingLoggerVariable(logging.getLogger(*values[0], **values[1]))


def _noted(
    tx: Any,
    function: Callable[..., Any],
    args: Any,
    kwargs: dict[str, Any],
    *,
    level: int,
    logger: logging.Logger | None = None,
) -> Any:
    """Note a call, to be made at the end of the graph.

    Raises:
        Unsupported: An argument is no constant, and the call would print it.
    """
    try:
        message = _Message(
            function=function,
            args=tuple(map(_constant, args)),
            kwargs={name: _constant(value) for name, value in kwargs.items()},
            frames=_frames(tx),
        )
    except _NotConstantError:
        if logger is None or logger.isEnabledFor(level):
            _split(getattr(function, "__qualname__", "a write to a stream"))
    else:
        number = next(_numbers)
        _messages[number] = message
        # Dynamo itself would note it where inlined calls of modules get lost.
        variable = _happen_variable()
        tx.output.root_tx.debug_locals.append((variable, [_variable(number)]))
    return _variable(None)


def _variable(value: Any) -> Any:
    from torch._dynamo.variables import ConstantVariable

    return ConstantVariable.create(value)


def _depend_on_level(tx: Any, logger: Any) -> None:
    """Let Dynamo compile again if the level of a logger changes."""
    from torch._dynamo.source import AttrSource, CallFunctionNoArgsSource
    from torch._dynamo.variables.builder import VariableBuilder

    if logger.source is not None:
        method = AttrSource(logger.source, "getEffectiveLevel")
        builder = VariableBuilder(tx, CallFunctionNoArgsSource(method))
        builder(logger.value.getEffectiveLevel())


def _split(name: str) -> None:
    from torch._dynamo.exc import unimplemented

    unimplemented(
        gb_type=f"{name} gets an argument that is known only when the graph runs",
        context=name,
        explanation="It must be made when the forward gets there.",
        hints=["Print or log plain Python values, or do it outside of the forward."],
    )


def _happen_variable() -> Any:
    from torch._dynamo.variables.base import VariableTracker

    class HappenVariable(VariableTracker):
        """Stands for `happen` in what Dynamo compiles."""

        def reconstruct(self, codegen: Any) -> None:
            codegen.load_import_from(__name__, "happen")

    return HappenVariable()


def _constant(variable: Any) -> Any:
    """The Python value of one of Dynamo's variables.

    Raises:
        _NotConstantError: It has none before the graph runs.
    """
    variable = variable.realize()
    stream = _stream(getattr(variable, "value", None))
    if stream is not None:
        return stream
    made = getattr(variable, "exc_type", None)
    try:
        if isinstance(made, type) and issubclass(made, Warning):
            return made(*map(_constant, variable.args))
        return variable.as_python_constant()
    except Exception as error:
        raise _NotConstantError from error


def _stream(value: Any) -> _Stream | None:
    names = [name for name in ("stdout", "stderr") if value is getattr(sys, name)]
    return _Stream(name=names[0]) if names and value is not None else None


def _on_stream(stream: _Stream, method: str, *args: Any, **kwargs: Any) -> None:
    getattr(_found(stream), method)(*args, **kwargs)


def _found(value: Any) -> Any:
    return getattr(sys, value.name) if isinstance(value, _Stream) else value


def _frames(tx: Any) -> tuple[_Frame, ...]:
    frames: list[_Frame] = []
    while tx is not None:
        code = tx.f_code
        frames.append(
            _Frame(
                filename=code.co_filename,
                line=tx.lineno,
                name=code.co_name,
                namespace=tx.f_globals,
            )
        )
        # Dynamo goes from a module's call to its forward at once.
        parent = tx.parent
        caller = parent.f_code.co_name if parent is not None else "root"
        if code.co_name == "forward" and caller != "_call_impl":
            frames += _frames_of_a_call()
        tx = parent
    return tuple(frames)


@functools.cache
def _frames_of_a_call() -> tuple[_Frame, ...]:
    """The lines of torch between whoever calls a module and its forward."""

    class Probe(torch.nn.Module):
        def forward(self) -> list[_Frame]:
            own = inspect.currentframe()
            assert own is not None
            frame = own.f_back
            assert frame is not None
            found: list[_Frame] = []
            while frame.f_code is not _frames_of_a_call.__wrapped__.__code__:
                found.append(
                    _Frame(
                        filename=frame.f_code.co_filename,
                        line=frame.f_lineno,
                        name=frame.f_code.co_name,
                        namespace=frame.f_globals,
                    )
                )
                assert frame.f_back is not None
                frame = frame.f_back
            return found

    return tuple(Probe()())
