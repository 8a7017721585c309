"""The judge of a rewritten model: its bits beside eager's, its peak beside the prediction.

Runs real training steps on the given inputs and leaves no trace: gradients, buffers, attributes and
random states are put back.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil
import torch
from torch.utils._pytree import tree_leaves, tree_map

from autockpt.fakes import unchanged_attributes
from autockpt.loss import backward_roots, find_loss
from autockpt.measure import measure_peak_bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What a step gave, and the peak of its memory above what stood before it."""

    tensors: dict[str, torch.Tensor | None]
    rng_states: tuple[torch.Tensor, ...]
    peak_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A training step to try: a forward on its inputs, a loss, a backward."""

    module: torch.nn.Module
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    loss_fn: Callable[[Any], torch.Tensor] | None
    device: torch.device

    def record(self, *, warm_up: bool) -> StepRecord:
        """Run the step and put the model back as it was.

        Args:
            warm_up: Run it once beforehand, so that compilation is not measured.
        """
        if warm_up:
            with _state_kept(self.module, self.device):
                self._run([], self._own_inputs())
        kept: list[Any] = []
        inputs = self._own_inputs()
        with _state_kept(self.module, self.device):
            peak_bytes = measure_peak_bytes(lambda: self._run(kept, inputs), self.device)
            tensors: dict[str, torch.Tensor | None] = {
                f"output {i}": leaf.detach()
                for i, leaf in enumerate(tree_leaves(kept))
                if isinstance(leaf, torch.Tensor)
            }
            for i, leaf in enumerate(tree_leaves(inputs)):
                if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
                    tensors[f"gradient of input {i}"] = leaf.grad
            for name, parameter in self.module.named_parameters():
                tensors[f"gradient of {name}"] = parameter.grad
            for name, buffer in self.module.named_buffers():
                tensors[f"buffer {name}"] = buffer.clone()
            rng_states = tuple(_rng_states(self.device))
        return StepRecord(tensors=tensors, rng_states=rng_states, peak_bytes=peak_bytes)

    def _own_inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs as leaves of their own, so that no backward runs into what made them."""

        def own(value: Any) -> Any:
            if isinstance(value, torch.Tensor) and value.requires_grad:
                return value.detach().requires_grad_()
            return value

        args, kwargs = tree_map(own, (self.args, dict(self.kwargs)))
        return args, kwargs

    def _run(self, kept: list[Any], inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        args, kwargs = inputs
        output = self.forward(*args, **kwargs)
        loss = find_loss(output, self.loss_fn)
        torch.autograd.backward(*backward_roots(loss))
        kept.extend([output, *loss])


def differences(expected: StepRecord, got: StepRecord) -> tuple[str, ...]:
    """Names of what is not bit for bit the same."""
    names = [
        name
        for name, tensor in expected.tensors.items()
        if not same_bits(tensor, got.tensors.get(name))
    ]
    for ours, theirs in zip(expected.rng_states, got.rng_states, strict=True):
        if not torch.equal(ours, theirs):
            names.append("random state")
    return tuple(names)


def same_bits(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    """Whether two tensors are equal bit for bit: NaN equals itself, 0.0 and -0.0 differ."""
    if left is None or right is None:
        return left is None and right is None
    if left.dtype != right.dtype or left.shape != right.shape or left.layout != right.layout:
        return False
    if left.layout is not torch.strided:
        left, right = left.to_dense(), right.to_dense()
    return torch.equal(_bytes_of(left), _bytes_of(right))


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def available_bytes(device: torch.device) -> int:
    """Memory that is free for a step on this device."""
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    free_bytes, _ = torch.get_device_module(device).mem_get_info(device)
    return int(free_bytes)


def _rng_states(device: torch.device) -> Iterator[torch.Tensor]:
    yield torch.get_rng_state()
    if device.type != "cpu":
        yield torch.get_device_module(device).get_rng_state(device)


@contextlib.contextmanager
def _state_kept(module: torch.nn.Module, device: torch.device) -> Iterator[None]:
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    devices = [] if device.type == "cpu" else [device]
    try:
        with (
            torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"),
            unchanged_attributes(module),
        ):
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
