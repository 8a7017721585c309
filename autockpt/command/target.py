"""Targets of the command line: a function, a model of the zoo, or a configuration of the hub."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from autockpt import zoo
from autockpt.devices.device import Device
from autockpt.devices.lookup import find_device
from autockpt.hub.build import build_from_hub
from autockpt.hub.options import HubOptions
from autockpt.zoo import Example, Size

_FORMS = "write file.py:function, package.module:function, zoo:NAME or hf:CONFIG"
_HERE = ("cpu", "cuda", "meta", "mps", "xpu")
_REDUCTIONS: dict[str, Callable[[Any], torch.Tensor]] = {
    "sum": lambda output: output.sum(),
    "mean": lambda output: output.mean(),
}


class TargetError(ValueError):
    """A target does not lead to a model and its inputs."""


def elsewhere(device: str | None) -> Device | None:
    """Returns the device that `--device` names if that is not here; None if it is.

    Raises:
        ValueError: There is no such device.
    """
    if device is None or device.partition(":")[0] in _HERE:
        return None
    return find_device(device)


def load(
    target: str,
    *,
    size: Size = "small",
    device: str | None = None,
    batch: int | None = None,
    options: HubOptions | None = None,
) -> Example:
    """Returns the model and the inputs that a target names.

    Args:
        target: A function that returns `(model, args, kwargs)` or `(model, inputs)`, as
            `file.py:function` or `package.module:function`; a model of the zoo, `zoo:NAME`; or the
            configuration of a model of transformers or diffusers, `hf:PATH_OR_NAME`.
        size: The size of a zoo model.
        device: The device of a zoo model; None for CUDA if it is available, else the CPU. For a
            device that is not here, the model has no data.
        batch: The batch size; a function is called with it as ``batch=``.
        options: What was chosen for the model of a configuration.

    Raises:
        TargetError: If there is no such function or model, or it returns something else.
        ValueError: The device is unknown.
    """
    kind, separator, name = target.partition(":")
    is_elsewhere = elsewhere(device) is not None
    options = options or HubOptions()
    if kind == "hf" and separator:
        if size != "small":
            raise TargetError(f"--size is for zoo:NAME; the configuration gives {target} its size")
        if not is_elsewhere and device not in (None, "meta"):
            raise TargetError(
                f"{target} is built without weights, so it is planned and not run: give --device "
                "meta, or the name of a device such as h100"
            )
        if batch is not None:
            options = dataclasses.replace(options, batch=batch)
        try:
            return build_from_hub(name, options)
        except ModuleNotFoundError as error:
            raise TargetError(str(error)) from error
    if options != HubOptions():
        raise TargetError(
            "--seq, --dtype, --autocast, --attention and --lora are for hf:CONFIG; "
            f"{target} makes its own model: choose them there"
        )
    if kind == "zoo" and separator:
        chosen = "meta" if is_elsewhere else device
        chosen = chosen or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return zoo.build(name, size, device=chosen, batch=batch)
        except (ValueError, ModuleNotFoundError) as error:
            raise TargetError(str(error)) from error
    if (device is not None and not is_elsewhere) or size != "small":
        raise TargetError(
            f"--device and --size are for zoo:NAME; {target} makes its own model: choose them there"
        )
    function = load_function(target)
    return _example(target, function() if batch is None else function(batch=batch))


def takes_batch(target: str) -> bool:
    """Returns whether a target can be loaded with a batch size; builds nothing."""
    if target.startswith(("zoo:", "hf:")):
        return True
    parameters = inspect.signature(load_function(target)).parameters.values()
    return any(p.name == "batch" or p.kind is p.VAR_KEYWORD for p in parameters)


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
