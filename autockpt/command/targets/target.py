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
from typing import Any, TypeVar, cast

import torch

from autockpt import zoo
from autockpt.budget import Budget, no_device
from autockpt.command.grammar.checks import FORMS, check_function, check_target
from autockpt.command.grammar.options import ModelOptions
from autockpt.command.grammar.usage_error import TargetError, UserCodeError
from autockpt.devices.device import Device
from autockpt.devices.lookup import find_device
from autockpt.hub.build import build_from_hub
from autockpt.hub.options import HubOptions
from autockpt.profile.cost_model import CostModel, find_cost
from autockpt.profile.optimizer import check_optimizer_name
from autockpt.verify.device_memory import is_any_here
from autockpt.zoo import Example, Size

__all__ = [
    "Loaded",
    "TargetError",
    "load",
    "load_cost",
    "load_function",
    "load_loss",
    "load_step",
    "noted",
]

Noted = TypeVar("Noted")

_MARK = "__autockpt_ran__"  # of a file that has run
_REDUCTIONS: dict[str, Callable[[Any], torch.Tensor]] = {
    "sum": lambda output: _tensor(output, "sum").sum(),
    "mean": lambda output: _tensor(output, "mean").mean(),
}


def _tensor(output: Any, loss: str) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    raise TypeError(
        f"--loss {loss} needs a tensor, and the output is a {type(output).__name__}; give "
        "--loss file.py:function"
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model and a step of it, ready to be planned.

    Attributes:
        example: The model and its inputs.
        loss_fn: What computes a loss from the output, if the model does not.
        optimizer: The name of the optimizer to count.
        device: The device to plan for, if it is not here.
        cost: What operations cost, if autockpt does not decide that.
    """

    example: Example
    loss_fn: Callable[[Any], torch.Tensor] | None
    optimizer: str | None
    device: Device | None
    cost: CostModel | None = None

    @property
    def model(self) -> torch.nn.Module:
        """The model."""
        return self.example.model

    @property
    def step(self) -> dict[str, Any]:
        """The arguments of `autockpt.plan` and its like that describe the step."""
        return {
            "sample_args": self.example.args,
            "sample_kwargs": dict(self.example.kwargs),
            "loss_fn": self.loss_fn,
            "optimizer": self.optimizer,
            "cost": self.cost,
        }

    def to_run(self) -> Example:
        """The model and its inputs with the chosen loss."""
        return dataclasses.replace(self.example, loss_fn=self.loss_fn)


def runnable(loaded: Loaded, target: str) -> Example:
    """Returns the model and its inputs with the chosen loss, for real steps.

    Raises:
        TargetError: The model has no data, so it can only be planned.
    """
    tensors = [*loaded.model.parameters(), *loaded.model.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise TargetError(
            f"{target} has no weights, so no step of it can run; give one that has, and --device "
            "cpu or cuda if it is elsewhere"
        )
    return loaded.to_run()


def load_step(
    target: str, options: ModelOptions, *, budget: Budget | None = None, batch: int | None = None
) -> Loaded:
    """Builds what a target and its options name; first checks all that can be known without it.

    Args:
        target: The target.
        options: How to build it.
        budget: The budget, if there is one.
        batch: The batch size, for options that have none.

    Raises:
        TargetError: The target leads to no model, or an option does not go with it.
        ValueError: The optimizer or the device is unknown.
    """
    options.check(target)
    device = elsewhere(options.device)
    if budget is not None and budget.is_of_device and device is None and not is_any_here():
        raise ValueError(no_device(budget))
    if options.optimizer is not None:
        check_optimizer_name(options.optimizer)
    loss_fn = None if options.loss is None else load_loss(options.loss)
    cost = None if options.cost is None else load_cost(options.cost)
    given = options.given if batch is None else {**options.given, "batch": batch}
    example = load(target, **given)
    return Loaded(
        example=example,
        loss_fn=example.loss_fn if loss_fn is None else loss_fn,
        optimizer=options.optimizer,
        device=device,
        cost=cost,
    )


def noted(answer: Noted, loaded: Loaded) -> Noted:
    """Returns an answer with what you should know of how its model was built."""
    values = cast("Any", answer)
    noted: Noted = dataclasses.replace(values, notes=(*loaded.example.notes, *values.notes))
    return noted


def elsewhere(device: str | None) -> Device | None:
    """Returns the device that `--device` names if that is not here; None if it is.

    Raises:
        ValueError: There is no such device.
    """
    if device is None or not ModelOptions(device=device).is_elsewhere:
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
    check_target(target)
    kind, _, name = target.partition(":")
    is_elsewhere = elsewhere(device) is not None
    options = options or HubOptions()
    if kind == "hf":
        if batch is not None:
            options = dataclasses.replace(options, batch=batch)
        try:
            return build_from_hub(name, options)
        except ModuleNotFoundError as error:
            raise TargetError(str(error)) from error
    if kind == "zoo":
        chosen = "meta" if is_elsewhere else device
        chosen = chosen or ("cuda" if torch.cuda.is_available() else "cpu")
        _check_is_here(chosen)
        try:
            return zoo.build(name, size, device=chosen, batch=batch)
        except (ValueError, ModuleNotFoundError) as error:
            raise TargetError(str(error)) from error
    function = load_function(target)
    if batch is not None and not _takes_batch(function):
        raise TargetError(f"{target} has no parameter batch; add one, and make inputs of that size")
    if batch is None and _needs_batch(function):
        raise TargetError(f"{target} needs a batch size: add --batch 8, or give batch a default")
    try:
        made = function() if batch is None else function(batch=batch)
    except Exception as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        raise UserCodeError(error, target) from error
    return _example(target, made)


def _check_is_here(name: str) -> None:
    """Raises TargetError unless this machine has a device."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TargetError(f"--device {name} is no device; use cpu, cuda, meta or h100") from error
    if device.type in ("cpu", "meta"):
        return
    module = torch.get_device_module(device.type)
    count = module.device_count() if module.is_available() else 0
    if (device.index or 0) >= count:
        raise TargetError(
            f"--device {name} is not here: torch {torch.__version__} finds {count} devices of kind "
            f"{device.type}. Use --device cpu, or plan for one that is elsewhere, such as "
            "--device h100"
        )


def takes_batch(target: str) -> bool:
    """Returns whether a target can be loaded with a batch size; builds nothing."""
    if target.startswith(("zoo:", "hf:")):
        return True
    return _takes_batch(load_function(target))


def _takes_batch(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == "batch" or p.kind is p.VAR_KEYWORD for p in parameters)


def _needs_batch(function: Callable[..., Any]) -> bool:
    parameter = inspect.signature(function).parameters.get("batch")
    return parameter is not None and parameter.default is parameter.empty


def load_loss(text: str) -> Callable[[Any], torch.Tensor]:
    """Returns the function that `--loss` names: `"sum"`, `"mean"`, or a target."""
    return _REDUCTIONS[text] if text in _REDUCTIONS else load_function(text)


def load_cost(text: str) -> CostModel:
    """Returns the cost model that `--cost` names: an installed one, or the function of a target."""
    return load_function(text) if ":" in text else find_cost(text)


def load_function(target: str) -> Callable[..., Any]:
    """Returns the function of `file.py:function` or `package.module:function`.

    Raises:
        TargetError: If there is none.
    """
    place, name = check_function(target)
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    except TargetError:
        raise
    except (Exception, SystemExit) as error:
        raise UserCodeError(error, f"importing {place}") from error
    function = getattr(module, name, None)
    if not callable(function):
        what = "has no" if function is None else "has no function"
        raise TargetError(f"{place} {what} {name!r}; {FORMS}")
    return function  # type: ignore[no-any-return]


def _import_file(path: Path) -> ModuleType:
    """Runs a file once, even if several options name functions of it."""
    place, changed_ns = path.resolve(), path.stat().st_mtime_ns
    known = sys.modules.get(path.stem)
    if known is not None and known.__dict__.get(_MARK) == (place, changed_ns):
        return known
    # A script can import modules from its own folder, as when it is run.
    sys.path.insert(0, str(place.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look up their module while it runs.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    setattr(module, _MARK, (place, changed_ns))
    return module


def _import_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # If the module itself imports one that is missing, the traceback shows it.
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise TargetError(f"there is no module {name!r}; {FORMS}") from error


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
