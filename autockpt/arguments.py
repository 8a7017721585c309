"""Checks of what you pass, before anything is traced; every error names the argument."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any

import torch

from autockpt.budget import Budget, format_bytes, no_device, parse_budget
from autockpt.capture.blame import unexpected_keyword
from autockpt.devices.device import Device
from autockpt.devices.lookup import find_device
from autockpt.errors import CaptureError
from autockpt.profile.cost_model import CostModel, find_cost
from autockpt.profile.optimizer import optimizer_memory
from autockpt.report.plan import Plan
from autockpt.request import Request
from autockpt.torch_private.pytree import tree_leaves
from autockpt.verify import device_memory
from autockpt.verify.live_bytes import distinct_bytes
from autockpt_solvers import Method, found_method

_DEFAULT_LIMIT_S = 60.0


def check_module(model: Any) -> None:
    """Raise TypeError unless the model is a module."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")


def check_bool(name: str, value: Any) -> None:
    """Raise TypeError unless an argument is a bool: any text would count as True."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; it must be True or False")


def checked_request(
    model: torch.nn.Module,
    budget: int | str | Budget,
    loss_fn: Callable[[Any], torch.Tensor] | None,
    optimizer: torch.optim.Optimizer | str | None,
    method: str | Method,
    time_limit_s: float | None,
    progress: bool,
    device: str | os.PathLike[str] | Device | None = None,
    cost: str | CostModel | None = None,
) -> Request:
    """Return what is asked of a plan.

    Raises:
        CaptureError: The model is compiled or scripted.
        TypeError: An argument has the wrong type.
        ValueError: The budget, the method, the cost model or the optimizer is unknown.
    """
    check_module(model)
    _refuse_compiled(model)
    asked = parse_budget(budget)
    if asked.is_of_device and device is None and not device_memory.is_any_here():
        raise ValueError(no_device(asked))
    _check_loss_fn(loss_fn)
    limit_s = _DEFAULT_LIMIT_S if time_limit_s is None else time_limit_s
    _check_time_limit(limit_s)
    method = _checked_method(method)
    cost_model = None if cost is None else find_cost(cost)
    target = None if device is None else find_device(device)
    memory = optimizer_memory(
        optimizer, model.parameters(), on_accelerator=target is not None and target.is_accelerator
    )
    if isinstance(optimizer, torch.optim.Optimizer):
        _check_optimizer(optimizer, model)
    return Request(
        budget=asked,
        optimizer_held_bytes=_held_bytes(optimizer),
        optimizer=memory,
        loss_fn=loss_fn,
        method=method,
        time_limit_s=limit_s,
        ends_early=time_limit_s is None,
        progress=progress,
        device=target,
        cost=cost_model,
    )


def _held_bytes(optimizer: torch.optim.Optimizer | str | None) -> int:
    """Bytes of the state that an optimizer has on accelerators now, as one that was loaded."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        return 0
    state = tree_leaves(list(optimizer.state.values()))
    return distinct_bytes(
        [
            each
            for each in state
            if isinstance(each, torch.Tensor) and device_memory.has_own_memory(each.device)
        ]
    )


def checked_plan(plan: Any) -> Plan | None:
    """Return a plan that was handed over, as a value or as a file, or None.

    Raises:
        OSError: The file cannot be read.
        TypeError: It is neither.
        ValueError: The file is no plan, or the plan has nothing to follow.
    """
    if plan is None:
        return None
    if isinstance(plan, (str, os.PathLike)):
        plan = Plan.load(plan)
    if not isinstance(plan, Plan):
        raise TypeError(f"plan is a {type(plan).__name__}; it must be a Plan or the path of one")
    if plan.schedule is None and plan.rung != "eager":
        raise ValueError(
            "plan has no schedule, so it cannot be followed; give one that optimize or "
            "autockpt.plan returned, with its graph"
        )
    return plan


def checked_budget(budget: int | str | Budget | None, plan: Plan | None) -> int | str | Budget:
    """Return the budget, or that of a plan that was handed over.

    Raises:
        TypeError: There is neither.
        ValueError: The plan needs more than the budget.
    """
    if budget is None:
        if plan is None:
            raise TypeError(
                'budget must be an int or a str, such as "8GB" or "60%"; it may be left out only '
                "with a plan, which has one"
            )
        return plan.budget_bytes
    asked = parse_budget(budget)
    if plan is not None and asked.bytes is not None and asked.bytes < plan.predicted_peak_bytes:
        raise ValueError(
            f"plan needs {format_bytes(plan.predicted_peak_bytes)}, more than the budget of "
            f"{asked}; give a larger budget, or plan anew for this one"
        )
    return asked


def checked_inputs(
    sample_args: tuple[Any, ...], sample_kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword inputs; raise TypeError if they are not given as such."""
    if not isinstance(sample_args, (tuple, list)):
        raise TypeError(
            f"sample_args is a {type(sample_args).__name__}; it must be a tuple of the forward's "
            "positional inputs, such as (batch,)"
        )
    if sample_kwargs is not None and not isinstance(sample_kwargs, Mapping):
        raise TypeError(
            f"sample_kwargs is a {type(sample_kwargs).__name__}; it must be a mapping of the "
            "forward's keyword inputs"
        )
    return tuple(sample_args), dict(sample_kwargs or {})


def check_signature(
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    of: str = "forward",
) -> None:
    """Raise TypeError if a forward does not take these inputs; ``of`` is its name."""
    signature = inspect.signature(forward)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for name in () if takes_any else kwargs.keys() - signature.parameters.keys():
        raise _unknown_input(name, f"the model's {of}", signature)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"the sample inputs do not fit the model's {of}: {error}. Give its positional "
            "inputs in sample_args and its keyword inputs in sample_kwargs."
        ) from error


@contextlib.contextmanager
def misspelt_inputs(module: torch.nn.Module, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Name a sample input that a forward with ``**kwargs`` passes on to one without it.

    Raises:
        TypeError: There is one.
    """
    try:
        yield
    except CaptureError as error:
        function, name = unexpected_keyword(error) or ("", "")
        if name not in kwargs:
            raise
        forwards = (type(part).forward for part in module.modules())
        taking = next((f for f in forwards if f.__qualname__ == function), None)
        signature = None if taking is None else inspect.signature(taking)
        raise _unknown_input(name, f"{function}, which the model calls,", signature) from error


def _unknown_input(name: str, taker: str, signature: inspect.Signature | None) -> TypeError:
    named = () if signature is None else signature.parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = [p.name for p in named if p.name != "self" and p.kind in kinds]
    close = difflib.get_close_matches(name, known, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    takes = f" It takes {', '.join(known)}." if known else ""
    return TypeError(f"sample_kwargs has {name!r}, which {taker} does not take.{guess}{takes}")


def _refuse_compiled(model: torch.nn.Module) -> None:
    """Raise CaptureError if a module is compiled or scripted.

    Once compiled code has run on fake tensors, Dynamo skips that code, in other models too.
    """
    for path, module in model.named_modules():
        where = f"{path} ({type(module).__name__})" if path else type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(
                where=where,
                reason="it is a ScriptModule, whose code is not Python's",
                advice="Give the eager module, without torch.jit.script or torch.jit.trace.",
            )
        if _is_compiled(module):
            raise CaptureError(
                where=where,
                reason="it is compiled, and a plan and torch.compile do not go together",
                advice="Give the module itself (_orig_mod of what torch.compile returned), and do "
                "not call its compile().",
            )


def _is_compiled(module: torch.nn.Module) -> bool:
    # torch.compiler.disable wraps the same way, but its wrappers have no configuration.
    wrapped = "get_compiler_config" in vars(module)
    is_forward_compiled = hasattr(getattr(module, "forward", None), "get_compiler_config")
    return wrapped or is_forward_compiled or vars(module).get("_compiled_call_impl") is not None


def _check_loss_fn(loss_fn: Any) -> None:
    if loss_fn is None:
        return
    if not callable(loss_fn):
        raise TypeError(f"loss_fn is a {type(loss_fn).__name__}; it must be callable or None")
    try:
        signature = inspect.signature(loss_fn)
    except (TypeError, ValueError):
        return  # some builtins have no signature
    try:
        signature.bind(None)
    except TypeError as error:
        raise TypeError(
            f"loss_fn cannot be called with the model's output alone: {error}. Bind all else "
            "first, such as with functools.partial."
        ) from error


def _check_time_limit(time_limit_s: Any) -> None:
    if isinstance(time_limit_s, bool) or not isinstance(time_limit_s, Real):
        raise TypeError(f"time_limit_s is {time_limit_s!r}; it must be a number of seconds")
    if not 0 < float(time_limit_s) < math.inf:
        raise ValueError(f"time_limit_s is {time_limit_s}; it must be above 0, and finite")


def _checked_method(method: Any) -> str | Method:
    if not isinstance(method, str) and not callable(method):
        raise TypeError(f"method is {method!r}; it must be a method's name or a callable")
    return found_method(method)


def _check_optimizer(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> None:
    # A network that is all frozen is trained through its inputs, which others own.
    own = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if own and not own & held:
        raise ValueError(
            f"optimizer ({type(optimizer).__name__}) has none of the model's parameters; give "
            "the one that steps them, or its name"
        )
