"""The memory of an optimizer, measured by stepping a copy of it on fake tensors.

A fake tensor has a shape and a device but no data, so this needs no memory and leaves the optimizer
and its parameters alone. It sees what any optimizer keeps, wherever it keeps it, and what its step
allocates for a while. Numbers that the step computes from data are taken as 1. An optimizer whose
control flow depends on data (a line search, say) cannot be stepped so, and raises.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from autockpt.torch_private.dynamo_settings import quiet_fakes
from autockpt.torch_private.fakes import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
    unset_fake_temporarily,
)
from autockpt.torch_private.operators import READ_NUMBER, returns_nothing
from autockpt.torch_private.optimizers import no_global_step_hooks
from autockpt.verify.live_bytes import LiveBytes
from autockpt.verify.random_state import kept_random_states

# Python numbers that an operator of the step takes become tensors while it runs.
_NUMBERS_BYTES = 16

MakeOptimizer = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepBytes:
    """What an optimizer keeps, and the most that its step allocates beside that.

    ``most_step_bytes`` holds if any of the parameters have no gradient.
    """

    state_bytes: int
    step_bytes: int
    most_step_bytes: int


def measure_new(
    make: MakeOptimizer, parameters: list[torch.nn.Parameter], *, on_accelerator: bool = False
) -> StepBytes:
    """Measures an optimizer of these parameters that does not exist yet.

    Args:
        make: Makes it.
        parameters: The parameters.
        on_accelerator: Whether it will step on an accelerator, where the parameters are not.
    """
    with _nothing_disturbed():
        mode = _fake_mode()
        fakes = [_fake_parameter(parameter, mode) for parameter in parameters]
        with mode:
            optimizer = make(fakes)
        return _measure(optimizer, parameters, [], mode, on_accelerator)


def measure_existing(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[torch.nn.Parameter],
    *,
    on_accelerator: bool = False,
) -> StepBytes:
    """Measures an optimizer as it is, with the state that it has.

    Args:
        optimizer: The optimizer; nothing of it changes.
        parameters: Parameters that it may refer to beside those that it steps.
        on_accelerator: See `measure_new`.
    """
    with _nothing_disturbed():
        mode = _fake_mode()
        copied, state = _fake_copy(optimizer, parameters, mode)
        return _measure(copied, _parameters(optimizer), state, mode, on_accelerator)


def _fake_mode() -> FakeTensorMode:
    # No kernel may run on real data instead: one that communicates would wait for other ranks.
    return FakeTensorMode(allow_fallback_kernels=False, allow_non_fake_inputs=True)


@contextlib.contextmanager
def _nothing_disturbed() -> Iterator[None]:
    with (
        kept_random_states(torch.device("cpu")),
        no_global_step_hooks(),
        warnings.catch_warnings(),
        quiet_fakes(),
        torch.inference_mode(False),
        torch.enable_grad(),
        unset_fake_temporarily(),
    ):
        warnings.simplefilter("ignore")
        yield


def _fake_copy(
    optimizer: torch.optim.Optimizer, parameters: Iterable[torch.nn.Parameter], mode: FakeTensorMode
) -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
    """A copy in which every tensor is fake, and the tensors of its state."""
    kind = type(optimizer)
    copied = kind.__new__(kind)
    # What leads to the optimizer itself leads to its copy.
    memo: dict[int, Any] = {id(optimizer): copied}
    memo |= {id(p): _fake_parameter(p, mode) for p in [*_parameters(optimizer), *parameters]}
    # Hooks, and a step that a scheduler has wrapped, are the user's and may act on the original.
    hooks = {name: type(v)() for name, v in vars(optimizer).items() if "hooks" in name}
    own = {n: v for n, v in vars(optimizer).items() if n not in hooks and n != "step"}
    with _TensorCopies(mode) as copies:
        vars(copied).update({**copy.deepcopy(own, memo), **hooks})
    return copied, copies.made


class _TensorCopies(TorchFunctionMode):
    """Makes ``copy.deepcopy`` turn tensors into fake ones."""

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self._mode = mode
        self.made: list[torch.Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not torch.Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = _fake(tensor, self._mode)
            self.made.append(memo[id(tensor)])
        return memo[id(tensor)]


def _fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    if isinstance(tensor, FakeTensor) or tensor.device.type == "meta":
        return _empty_like(tensor, mode)
    if tensor.device.type == "cpu" and tensor.numel() == 1:
        with mode:  # a count of steps, say, whose value the step asks for
            return torch.tensor(tensor.tolist(), dtype=tensor.dtype)
    return mode.from_tensor(tensor.detach(), static_shapes=True)


def _fake_parameter(parameter: torch.nn.Parameter, mode: FakeTensorMode) -> torch.nn.Parameter:
    return torch.nn.Parameter(_empty_like(parameter, mode), parameter.requires_grad)


def _empty_like(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    device = tensor.fake_device if isinstance(tensor, FakeTensor) else tensor.device
    with mode:
        return torch.empty_strided(
            tensor.shape,
            tensor.stride(),
            dtype=tensor.dtype,
            device="cpu" if device.type == "meta" else device,
        )


def _measure(
    optimizer: torch.optim.Optimizer,
    originals: list[torch.nn.Parameter],
    state: list[torch.Tensor],
    mode: FakeTensorMode,
    on_accelerator: bool,
) -> StepBytes:
    """Steps an optimizer of fake parameters; ``originals`` are the real ones, in their order."""
    fakes = _parameters(optimizer)
    on_host = {
        id(fake)
        for fake, real in zip(fakes, originals, strict=True)
        if not on_accelerator and real.device.type in ("cpu", "meta")
    }
    _choose_paths(optimizer, on_host)
    trained = [p for p in fakes if p.requires_grad]
    with mode:
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
    tracker = _LiveBytesWithoutData([*fakes, *(p.grad for p in trained)])
    tracker.add(state)
    state.clear()
    with mode, tracker:
        state_bytes = step_bytes = 0
        # Optimizers may make state while they go through the parameters, so the second step shows
        # how all later ones go. Adam, which most people use, makes all its state first.
        is_adam = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
        for _ in range(1 if is_adam else 2):
            peak_bytes = _peak_bytes_of_step(optimizer, tracker)
            state_bytes = max(state_bytes, tracker.live_bytes)
            step_bytes = max(step_bytes, peak_bytes - tracker.live_bytes)
        most_step_bytes = step_bytes
        around = {id(parameter) for parameter in _around_the_largest(trained)}
        if len(around) < len(trained):
            for parameter in trained:
                if id(parameter) not in around:
                    parameter.grad = None
            # An optimizer may ask for all gradients: then no step goes without some of them.
            with contextlib.suppress(Exception):
                peak_bytes = _peak_bytes_of_step(optimizer, tracker)
                most_step_bytes = max(most_step_bytes, peak_bytes - tracker.live_bytes)
    return StepBytes(
        state_bytes=state_bytes,
        step_bytes=step_bytes + _NUMBERS_BYTES,
        most_step_bytes=most_step_bytes + _NUMBERS_BYTES,
    )


class _LiveBytesWithoutData(LiveBytes):
    """Counts bytes of fake tensors, and stands in for what needs data.

    Numbers read from tensors are 1. Operators that return nothing, as some fused steps, are skipped
    if they cannot run on fake tensors: they only change their arguments.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        except DataDependentOutputException:
            if func is not READ_NUMBER or args[0].dtype is torch.bool:
                raise
            return 1.0 if args[0].is_floating_point() else 1
        except UnsupportedOperatorException:
            if not returns_nothing(func):
                raise
            return None


def _peak_bytes_of_step(optimizer: torch.optim.Optimizer, tracker: LiveBytes) -> int:
    tracker.peak_bytes = tracker.live_bytes
    step: Callable[..., Any] = optimizer.step
    closure = inspect.signature(step).parameters.get("closure")
    if closure is None or closure.default is None:
        step()
    else:
        step(lambda: torch.tensor(1.0))
    return tracker.peak_bytes


def _choose_paths(optimizer: torch.optim.Optimizer, on_host: set[int]) -> None:
    """Lets groups step all parameters at once if torch.optim would.

    It chooses so by itself on an accelerator, but not for fake tensors. ``on_host`` has the ids of
    the parameters that will not be on an accelerator.
    """
    for group in optimizer.param_groups:
        if group.get("foreach", False) is None and not group.get("fused"):
            ids = {id(p) for p in group["params"]}
            group["foreach"] = bool(ids) and not ids & on_host


def _around_the_largest(trained: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """The largest parameter, and the largest before and after it.

    A loop over parameters may keep what it made for one until it has made the same for the next
    that has a gradient. If the parameters between two have none, it keeps the most around these.
    """
    if not trained:
        return []
    at = max(range(len(trained)), key=lambda i: trained[i].nbytes)
    sides = (trained[:at], trained[at : at + 1], trained[at + 1 :])
    return [max(side, key=lambda p: p.nbytes) for side in sides if side]


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]
