"""Targets of the command line: `file.py:function`, `package.module:function` or `zoo:NAME`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from autockpt import zoo
from autockpt.zoo import Example, Size

_FORMS = "write file.py:function, package.module:function or zoo:NAME"
_REDUCTIONS: dict[str, Callable[[Any], torch.Tensor]] = {
    "sum": lambda output: output.sum(),
    "mean": lambda output: output.mean(),
}


class TargetError(ValueError):
    """A target does not lead to a model and its inputs."""


def load(
    target: str, *, size: Size = "small", device: str | None = None, batch: int | None = None
) -> Example:
    """Returns the model and the inputs that a target names.

    Args:
        target: A function that returns `(model, args, kwargs)` or `(model, inputs)`, as
            `file.py:function` or `package.module:function`; or a model of the zoo, `zoo:NAME`.
        size: The size of a zoo model.
        device: The device of a zoo model; None for CUDA if it is available, else the CPU.
        batch: The batch size; a function is called with it as ``batch=``.

    Raises:
        TargetError: If there is no such function or model, or it returns something else.
    """
    kind, separator, name = target.partition(":")
    if kind == "zoo" and separator:
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return zoo.build(name, size, device=chosen, batch=batch)
        except (ValueError, ModuleNotFoundError) as error:
            raise TargetError(str(error)) from error
    if device is not None or size != "small":
        raise TargetError(
            f"--device and --size are for zoo:NAME; {target} makes its own model: choose them there"
        )
    function = load_function(target)
    return _example(target, function() if batch is None else function(batch=batch))


def load_loss(text: str) -> Callable[[Any], torch.Tensor]:
    """Returns the function that `--loss` names: `"sum"`, `"mean"`, or a target."""
    return _REDUCTIONS[text] if text in _REDUCTIONS else load_function(text)


def load_function(target: str) -> Callable[..., Any]:
    """Returns the function of `file.py:function` or `package.module:function`.

    Raises:
        TargetError: If there is none.
    """
    # From the right: a path may contain a colon.
    place, separator, name = target.rpartition(":")
    if not separator or not place or not name:
        raise TargetError(f"{target!r} is no target; {_FORMS}")
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        what = "has no" if function is None else "has no function"
        raise TargetError(f"{place} {what} {name!r}; {_FORMS}")
    return function  # type: ignore[no-any-return]


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"there is no file {path}; {_FORMS}")
    # A script can import modules from its own folder, as when it is run.
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look up their module while it runs.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # If the module itself imports one that is missing, the traceback shows it.
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise TargetError(f"there is no module {name!r}; {_FORMS}") from error


def _example(target: str, returned: Any) -> Example:
    match returned:
        case Example():
            return returned
        case (torch.nn.Module() as model, (tuple() | list()) as args, Mapping() as kwargs):
            return Example(model=model, args=tuple(args), kwargs=dict(kwargs))
        case (torch.nn.Module() as model, Mapping() as kwargs):
            return Example(model=model, kwargs=dict(kwargs))
        case (torch.nn.Module() as model, (tuple() | list()) as args):
            return Example(model=model, args=tuple(args))
        case (torch.nn.Module() as model, torch.Tensor() as tensor):
            return Example(model=model, args=(tensor,))
    if isinstance(returned, tuple):
        got = f"({', '.join(type(item).__name__ for item in returned)})"
    else:
        got = type(returned).__name__
    raise TargetError(
        f"{target} must return (model, args, kwargs) or (model, inputs), with inputs a tensor, a "
        f"tuple or a dict; it returned {got}"
    )
