"""Methods beside the forward that a training loop calls, such as Lightning's ``training_step``."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from autockpt.torch_private.messages import is_silent

_LIGHTNING = ("pytorch_lightning", "lightning")
# Names of arguments that count calls, wherever they begin: a run may be resumed.
_COUNTERS = frozenset({"batch_idx", "batch_index", "batch_nb", "step", "global_step", "iteration"})
_LOGGERS = ("log", "log_dict")


def checked_methods(module: torch.nn.Module, methods: Any) -> tuple[str, ...]:
    """The names of the methods to plan beside the forward.

    Args:
        module: The module.
        methods: What was asked for; None for those that are known to train.

    Raises:
        TypeError: They are no names.
        ValueError: A module of this class has no such method to plan.
    """
    if methods is None:
        return ("training_step",) if has_plannable_step(module) else ()
    is_sequence = isinstance(methods, (tuple, list))
    if not is_sequence or not all(isinstance(name, str) for name in methods):
        raise TypeError(
            f'methods is {methods!r}; it must be a tuple of names, such as ("training_step",)'
        )
    for name in methods:
        _check_method(module, name)
    return tuple(dict.fromkeys(methods))


def _check_method(module: torch.nn.Module, name: str) -> None:
    kind = type(module).__name__
    if name == "forward":
        raise ValueError('methods has "forward", which is always planned; name other methods only')
    if hasattr(torch.nn.Module, name):
        raise ValueError(
            f"methods has {name!r}, which is a method of every torch.nn.Module; name the method "
            "that returns the loss"
        )
    if callable(getattr(type(module), name, None)):
        return
    own = [
        n for n in dir(type(module)) if not n.startswith("_") and not hasattr(torch.nn.Module, n)
    ]
    close = difflib.get_close_matches(name, own, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"methods has {name!r}, which {kind} does not define.{guess}")


def has_plannable_step(module: torch.nn.Module) -> bool:
    """Whether a module is a LightningModule whose ``training_step`` leaves the backward to others.

    With manual optimization it runs backwards and the optimizer itself, so it cannot be tried.
    """
    for base in type(module).__mro__:
        is_lightning = base.__module__.partition(".")[0] in _LIGHTNING
        if is_lightning and base.__name__ == "LightningModule":
            own = getattr(type(module), "training_step", None)
            return own is not base.__dict__.get("training_step") and bool(
                getattr(module, "automatic_optimization", True)
            )
    return False


class Counters:
    """Integers among a method's arguments that count its calls, such as ``batch_idx``.

    One plan serves all values of a counter. An integer that is none by its name, and takes other
    values than a counter, chooses the plan, as in calls of the forward.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        parameters = inspect.signature(method).parameters.values()
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self._positions = [p.name for p in parameters if p.kind in positional]
        self._latest: dict[int | str, int] = {}
        self._exact: set[int | str] = set()

    def hidden(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with each counter replaced by a float, whose value changes no plan."""
        hidden_args = tuple(self._hidden(self._name(at), value) for at, value in enumerate(args))
        return hidden_args, {name: self._hidden(name, value) for name, value in kwargs.items()}

    def _name(self, position: int) -> int | str:
        return self._positions[position] if position < len(self._positions) else position

    def _hidden(self, name: int | str, value: Any) -> Any:
        if type(value) is not int:
            return value
        latest = self._latest.get(name, 0)  # counting begins at 0 or 1
        self._latest[name] = value
        if name not in _COUNTERS and value not in (0, latest, latest + 1):
            self._exact.add(name)
        return value if name in self._exact else float(value)


class _Running(threading.local):
    """The modules of which an optimized method runs in this thread."""

    def __init__(self) -> None:
        self.modules: list[int] = []


_running = _Running()


def is_running(module: torch.nn.Module) -> bool:
    """Whether an optimized method of the module runs: what it calls is part of its plan."""
    return id(module) in _running.modules


@contextlib.contextmanager
def running(module: torch.nn.Module) -> Iterator[None]:
    """Let calls of the module's other methods be part of the one that runs inside."""
    _running.modules.append(id(module))
    try:
        yield
    finally:
        _running.modules.remove(id(module))


class QuietLog:
    """Takes the place of a LightningModule's ``log``: logs once for a call of yours.

    Steps that are tried log nothing. Dynamo does not look inside.
    """

    def __init__(self, module: torch.nn.Module, name: str) -> None:
        self._module, self._name = module, name

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Log as the module's own method does."""
        if not is_silent():
            getattr(type(self._module), self._name)(self._module, *args, **kwargs)


def install_quiet_logs(module: torch.nn.Module) -> None:
    """Let a LightningModule log nothing in steps that are tried."""
    for name in _LOGGERS:
        if has_plannable_step(module) and name not in module.__dict__:
            module.__dict__[name] = QuietLog(module, name)


def remove_quiet_logs(module: torch.nn.Module) -> None:
    """Give a module its own methods back."""
    for name in _LOGGERS:
        if isinstance(module.__dict__.get(name), QuietLog):
            del module.__dict__[name]
