"""What an optimizer holds between steps and needs while it steps."""

from __future__ import annotations

import dataclasses
import fractions
import itertools
import math
from collections.abc import Iterable

import torch

_FULL_STATES = {
    # Full-size state tensors per parameter, by the optimizer's documented algorithm.
    "adam": 2,
    "adamw": 2,
    "adamax": 2,
    "nadam": 2,
    "radam": 2,
    "adagrad": 1,
    "rmsprop": 1,
    "adadelta": 2,
    "rprop": 2,
    "asgd": 1,
    "sgd": 0,
    "sgd_momentum": 1,
    "lion": 1,
}

# Plain numbers that an operator of the step takes become tensors for as long as it runs.
_NUMBERS_BYTES = 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerMemory:
    """Bytes of optimizer state, and of temporaries at the height of its step.

    ``trained_bytes`` are those of the parameters that it was counted for; ``most_step_bytes`` are
    the temporaries where some of these may have no gradient.
    """

    name: str
    is_assumed: bool
    state_bytes: int
    step_bytes: int
    most_step_bytes: int
    trained_bytes: int

    def with_unused(self) -> OptimizerMemory:
        """The same where parameters without a gradient are passed over."""
        return dataclasses.replace(self, step_bytes=self.most_step_bytes)

    def scaled_to(self, parameters: Iterable[torch.nn.Parameter]) -> OptimizerMemory:
        """The same for parameters of which some were frozen, unfrozen or cast since."""
        trained_bytes = sum(_bytes(p) for p in parameters if p.requires_grad)
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


def optimizer_memory(
    optimizer: torch.optim.Optimizer | str | None, parameters: Iterable[torch.nn.Parameter]
) -> OptimizerMemory:
    """Memory of an optimizer over the parameters that require grad.

    Args:
        optimizer: An instance, a name such as "adamw" or "sgd", or None for an assumed AdamW.
        parameters: The model's parameters.

    Raises:
        ValueError: Unknown name; the message lists the known ones.
        TypeError: Neither a name nor an optimizer.
    """
    trained = [p for p in parameters if p.requires_grad]
    if optimizer is None:
        return _by_name("adamw", trained, is_assumed=True)
    if isinstance(optimizer, str):
        return _by_name(optimizer.lower(), trained, is_assumed=False)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}; it must be a torch.optim.Optimizer, "
            f"a name ({', '.join(_FULL_STATES)}), or None to assume AdamW"
        )
    # It may hold parameters of other models too, or not all of this one's.
    trained_bytes = sum(_bytes(p) for p in trained)
    return dataclasses.replace(_of_instance(optimizer), trained_bytes=trained_bytes)


def _by_name(name: str, trained: list[torch.nn.Parameter], *, is_assumed: bool) -> OptimizerMemory:
    if name not in _FULL_STATES:
        raise ValueError(
            f"unknown optimizer {name!r}; known names: {', '.join(_FULL_STATES)}, "
            "or give the optimizer itself"
        )
    count = _FULL_STATES[name]
    counters_bytes = _counter(name) * len(trained)
    return OptimizerMemory(
        name=name,
        is_assumed=is_assumed,
        state_bytes=count * sum(_bytes(p) for p in trained) + counters_bytes,
        **_step_bytes(name, trained, foreach=_foreach_by_default(trained)),
        trained_bytes=sum(_bytes(p) for p in trained),
    )


def _of_instance(optimizer: torch.optim.Optimizer) -> OptimizerMemory:
    groups = optimizer.param_groups
    trained = [p for group in groups for p in group["params"] if p.requires_grad]
    name = type(optimizer).__name__.lower()
    state_bytes = 0
    for group in groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if state:
                state_bytes += sum(_bytes(v) for v in state.values() if isinstance(v, torch.Tensor))
            elif parameter.requires_grad:
                state_bytes += _states_to_come(name, group) * _bytes(parameter) + _counter(name)
    foreach = any(
        group.get("foreach") or (group.get("foreach") is None and not group.get("fused"))
        for group in groups
    ) and _foreach_by_default(trained)
    foreach = foreach or any(bool(group.get("foreach")) for group in groups)
    fused = all(bool(group.get("fused")) for group in groups)
    return OptimizerMemory(
        name=type(optimizer).__name__,
        is_assumed=False,
        state_bytes=state_bytes,
        **_step_bytes(name, [] if fused else trained, foreach=foreach),
        trained_bytes=sum(_bytes(p) for p in trained),
    )


def _counter(name: str) -> int:
    """Bytes of the step count that an optimizer keeps for each parameter."""
    return 0 if name in ("sgd", "sgd_momentum", "lion") else 4


def _states_to_come(name: str, group: dict[str, object]) -> int:
    """Full-size states that the first step will make for a parameter of this group."""
    if name == "sgd":
        return 1 if group.get("momentum") else 0
    if name in ("adam", "adamw"):
        return 3 if group.get("amsgrad") else 2
    if name == "rmsprop":
        return 1 + bool(group.get("momentum")) + bool(group.get("centered"))
    # An optimizer we do not know: Adam's two states are the usual most.
    return _FULL_STATES.get(name, 2)


def _step_bytes(name: str, trained: list[torch.nn.Parameter], *, foreach: bool) -> dict[str, int]:
    """Temporaries of a step: of all parameters at once with foreach, of one by one without.

    Adam's step holds a denominator and one more temporary of the parameter's size at its height;
    SGD's at most a decayed gradient. The others are taken for Adam's kin. In the loop over single
    parameters the last temporary of one lives until that of the next one with a gradient has been
    made, whichever that is.
    """
    sizes = [_bytes(p) for p in trained]
    num_temporaries = 1 if name.startswith("sgd") else 2
    if foreach or not sizes:
        return dict.fromkeys(("step_bytes", "most_step_bytes"), num_temporaries * sum(sizes))

    def looped(before: Iterable[int]) -> int:
        steps = (left + num_temporaries * size for left, size in zip(before, sizes, strict=False))
        return max(steps) + _NUMBERS_BYTES

    return {
        "step_bytes": looped([0, *sizes]),
        "most_step_bytes": looped(itertools.accumulate(sizes, max, initial=0)),
    }


def _foreach_by_default(trained: list[torch.nn.Parameter]) -> bool:
    """torch.optim takes the foreach path by itself where all parameters are on an accelerator."""
    return bool(trained) and all(p.device.type not in ("cpu", "meta") for p in trained)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
