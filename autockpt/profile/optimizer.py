"""What an optimizer keeps between steps, and what it allocates while it steps."""

from __future__ import annotations

import dataclasses
import fractions
import functools
import math
from collections.abc import Iterable

import torch

from autockpt import progress
from autockpt.capture.blame import is_raised_by_autockpt
from autockpt.errors import InternalError
from autockpt.profile.fake_step import MakeOptimizer, StepBytes, measure_existing, measure_new
from autockpt.torch_private.pytree import tree_leaves
from autockpt.verify.live_bytes import distinct_bytes
from autockpt_solvers.near_names import meant

# A name does not say whether weights decay. SGD needs a temporary tensor if they do.
_SGD = functools.partial(torch.optim.SGD, lr=0.1, weight_decay=0.1)
_MAKERS: dict[str, MakeOptimizer] = {
    **{
        name.lower(): kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
        if kind is not torch.optim.Optimizer
    },
    "sgd": _SGD,
    "sgd_momentum": functools.partial(_SGD, momentum=0.9),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerMemory:
    """Bytes that an optimizer keeps between steps, and the most that its step allocates.

    Attributes:
        name: The optimizer's name.
        is_assumed: Whether you named none, so that AdamW is assumed.
        state_bytes: Its state.
        step_bytes: The most that a step allocates beside the state.
        most_step_bytes: The same if some of the parameters may have no gradient.
        trained_bytes: Bytes of the parameters that this was measured for.
        notes: Sentences on what could not be measured, for the plan.
        of: A number for the optimizer that you passed. Models that it steps share its state.
    """

    name: str
    is_assumed: bool
    state_bytes: int
    step_bytes: int
    most_step_bytes: int
    trained_bytes: int
    notes: tuple[str, ...] = ()
    of: int | None = dataclasses.field(default=None, repr=False, compare=False)

    def with_unused(self) -> OptimizerMemory:
        """Returns the memory if parameters without a gradient are skipped."""
        return dataclasses.replace(self, step_bytes=self.most_step_bytes)

    def scaled_to(self, parameters: Iterable[torch.nn.Parameter]) -> OptimizerMemory:
        """Returns the memory after some parameters were frozen, unfrozen or cast."""
        trained_bytes = sum(p.nbytes for p in parameters if p.requires_grad)
        if trained_bytes == self.trained_bytes:
            return self
        scale = fractions.Fraction(trained_bytes, max(1, self.trained_bytes))
        return dataclasses.replace(
            self,
            state_bytes=math.ceil(scale * self.state_bytes),
            step_bytes=math.ceil(scale * self.step_bytes),
            most_step_bytes=math.ceil(scale * self.most_step_bytes),
            trained_bytes=trained_bytes,
        )


def check_optimizer_name(name: str) -> None:
    """Raises ValueError unless `optimizer_memory` knows the name; the message lists the known."""
    if name.lower() not in _MAKERS:
        raise ValueError(
            f"unknown optimizer {name.lower()!r}; {meant(name, _MAKERS)}known names: "
            f"{', '.join(_MAKERS)}, or, in Python, give the optimizer itself"
        )


def make_optimizer(name: str, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Makes the optimizer that a name stands for, as it is counted.

    Raises:
        ValueError: The name is unknown.
    """
    check_optimizer_name(name)
    return _MAKERS[name.lower()](parameters)


def optimizer_memory(
    optimizer: torch.optim.Optimizer | str | None,
    parameters: Iterable[torch.nn.Parameter],
    *,
    on_accelerator: bool = False,
) -> OptimizerMemory:
    """Measures an optimizer on fake tensors; the optimizer and the parameters do not change.

    If an optimizer cannot be stepped on fake tensors, its memory is assumed and `notes` says so.

    Args:
        optimizer: An optimizer of any library, with the state that it has; the name of a class of
            ``torch.optim`` in lower case, such as "adamw"; or None to assume AdamW.
        parameters: The model's parameters; an optimizer that is named steps those that require
            grad.
        on_accelerator: Whether the step is for an accelerator, where the parameters are not.

    Raises:
        ValueError: If the name is unknown; the message lists the known ones.
        TypeError: If it is neither a name nor an optimizer.
    """
    progress.stage("measuring the optimizer")
    parameters = list(parameters)
    trained = [p for p in parameters if p.requires_grad]
    if optimizer is None or isinstance(optimizer, str):
        name = "adamw" if optimizer is None else optimizer.lower()
        measured, notes = _of_name(name, trained, on_accelerator)
    elif isinstance(optimizer, torch.optim.Optimizer):
        optimizer = _unwrapped(optimizer)
        name = type(optimizer).__name__
        measured, notes = _of_instance(optimizer, parameters, on_accelerator)
    else:
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}; it must be a torch.optim.Optimizer, "
            f"a name ({', '.join(_MAKERS)}), or None to assume AdamW"
        )
    return OptimizerMemory(
        name=name,
        is_assumed=optimizer is None,
        state_bytes=measured.state_bytes,
        step_bytes=measured.step_bytes,
        most_step_bytes=measured.most_step_bytes,
        # An optimizer may step parameters of other models too, or not all of this one's.
        trained_bytes=sum(p.nbytes for p in trained),
        notes=notes,
        of=id(optimizer) if isinstance(optimizer, torch.optim.Optimizer) else None,
    )


def _of_name(
    name: str, trained: list[torch.nn.Parameter], on_accelerator: bool
) -> tuple[StepBytes, tuple[str, ...]]:
    check_optimizer_name(name)
    if not trained:
        return StepBytes(state_bytes=0, step_bytes=0, most_step_bytes=0), ()
    try:
        return measure_new(_MAKERS[name], trained, on_accelerator=on_accelerator), ()
    except Exception as error:  # noqa: BLE001 - any code of torch or another library
        history_size = 100 if name == "lbfgs" else 0
        return _assumed(name, error, trained, 0, history_size)


def _of_instance(
    optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], on_accelerator: bool
) -> tuple[StepBytes, tuple[str, ...]]:
    try:
        return measure_existing(optimizer, parameters, on_accelerator=on_accelerator), ()
    except Exception as error:  # noqa: BLE001 - any code of torch or another library
        history_size = max(int(g.get("history_size", 0)) for g in optimizer.param_groups)
        trained = [p for g in optimizer.param_groups for p in g["params"] if p.requires_grad]
        # A history grows, so what there is of it now is not what there will be.
        to_come = trained if history_size else [p for p in trained if not optimizer.state.get(p)]
        kept = [] if history_size else tree_leaves(list(optimizer.state.values()))
        name = type(optimizer).__name__
        return _assumed(name, error, to_come, distinct_bytes(kept), history_size)


def _assumed(
    name: str,
    error: Exception,
    parameters: list[torch.nn.Parameter],
    kept_bytes: int,
    history_size: int,
) -> tuple[StepBytes, tuple[str, ...]]:
    """Two tensors for each parameter without state, as Adam has; more if there is a history.

    On the CPU a step goes through the parameters one by one, and frees one's temporaries after the
    next one has made its first. On other devices it takes all at once.

    Raises:
        InternalError: The failure is autockpt's own.
    """
    if is_raised_by_autockpt(error):
        raise InternalError(stage="profile", cause=error) from error
    num_states = 2 * history_size + 2
    sizes = [p.nbytes for p in parameters]
    if history_size:
        step_bytes = 5 * sum(sizes)
    elif any(p.device.type in ("cpu", "meta") for p in parameters):
        step_bytes = 3 * max(sizes)
    else:
        step_bytes = 2 * sum(sizes)
    reason = (str(error).strip().splitlines() or [""])[0]
    note = (
        f"The memory of {name} is assumed, because it cannot step on tensors without data "
        f"({type(error).__name__}: {reason}): {num_states} tensors of state for each parameter."
    )
    measured = StepBytes(
        state_bytes=kept_bytes + num_states * sum(sizes),
        step_bytes=step_bytes,
        most_step_bytes=step_bytes,
    )
    return measured, (note,)


def _unwrapped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Returns the optimizer inside a wrapper that holds nothing itself, as accelerate's does."""
    inner = getattr(optimizer, "optimizer", None)
    if (
        isinstance(inner, torch.optim.Optimizer)
        and inner.state is optimizer.state
        and inner.param_groups is optimizer.param_groups
    ):
        return _unwrapped(inner)
    return optimizer
