"""The judge of a rewritten model: its bits beside eager's, its peak beside the prediction.

Runs real training steps on the given inputs and leaves no trace: gradients, buffers, attributes and
random states are put back.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import psutil
import torch
from torch.utils._pytree import tree_leaves, tree_map

from autockpt import torch_private
from autockpt.held_state import unchanged_attributes
from autockpt.loss import backward_roots, find_loss
from autockpt.measure import measure_peak_bytes
from autockpt.random_state import (
    kept_random_states,
    random_states,
    same_states,
    seed_generators,
)

_T = TypeVar("_T")
_FEW_DRAWS, _MOST_DRAWS = 4, 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What a step gave, and the peak of its memory above what stood before it."""

    tensors: dict[str, torch.Tensor | None]
    random_states: tuple[Any, ...]
    peak_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A training step to try: a forward on its inputs, a loss, a backward.

    ``accumulates`` says that the backward adds to the gradients that parameters have; ``draw``
    seeds the generators, which 0 leaves as they are.
    """

    module: torch.nn.Module
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    loss_fn: Callable[[Any], torch.Tensor] | None
    device: torch.device
    accumulates: bool
    draw: int = 0

    def with_other_draws(
        self,
        first: _T,
        states: tuple[Any, ...],
        attempt: Callable[[Step], _T],
        path: Callable[[_T], Any],
    ) -> list[_T]:
        """What an attempt gives where the step draws otherwise: many draws if paths differ.

        The path of a forward may depend on what it draws (layers dropped at random), and its peak
        with it.

        Args:
            first: What the attempt gave of this step.
            states: Of the generators after it; where they did not move there is nothing to try.
            attempt: Runs a step.
            path: What differs between two results where the forwards took different paths.
        """
        results: list[_T] = []
        if same_states(states, random_states(self.device)):
            return results
        for draw in range(1, _MOST_DRAWS):
            if draw == _FEW_DRAWS and all(path(result) == path(first) for result in results):
                break
            results.append(attempt(dataclasses.replace(self, draw=draw)))
        return results

    def peak_bytes_of_other_draws(self, record: StepRecord) -> int:
        """The highest peak where the step, which gave ``record``, draws otherwise; 0 if never."""
        peaks = self.with_other_draws(
            record.peak_bytes,
            record.random_states,
            lambda step: step.record(warm_up=False).peak_bytes,
            path=lambda peak_bytes: peak_bytes,
        )
        return max(peaks, default=0)

    def record(self, *, warm_up: bool) -> StepRecord:
        """Run the step and put the model back as it was.

        Args:
            warm_up: Run it once beforehand, so that compilation is not measured.
        """
        if warm_up:
            with self.state_kept():
                self._run([], own_copies((self.args, dict(self.kwargs))))
        kept: list[Any] = []
        inputs = own_copies((self.args, dict(self.kwargs)))
        with self.state_kept():
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
                gradient = parameter.grad
                if self.accumulates and gradient is not None:
                    gradient = gradient.clone()
                tensors[f"gradient of {name}"] = gradient
            for name, buffer in self.module.named_buffers():
                tensors[f"buffer {name}"] = buffer.clone()
            states = random_states(self.device)
        return StepRecord(tensors=tensors, random_states=states, peak_bytes=peak_bytes)

    @contextlib.contextmanager
    def state_kept(self) -> Iterator[None]:
        """Draw what this step draws, and put the model back as it was."""
        with state_kept(self.module, self.device, accumulates=self.accumulates):
            if self.draw:
                seed_generators(self.draw, self.device)
            yield

    def _run(self, kept: list[Any], inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        args, kwargs = inputs
        output = self.forward(*args, **kwargs)
        loss = find_loss(output, self.loss_fn)
        with torch_private.no_autocast():
            torch.autograd.backward(*backward_roots(loss))
        kept.extend([output, *loss])


def own_copies(inputs: Any) -> Any:
    """Copies of inputs: a forward may write into them, a backward run into their makers."""
    storages: dict[int, torch.UntypedStorage] = {}
    copies: dict[int, torch.Tensor] = {}

    def own(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            return value
        if id(value) in copies:
            return copies[id(value)]
        # Whole storages are copied: strides and sharing stay, and with them the plan's graph.
        storage = value.untyped_storage()
        copy = storages.setdefault(storage._cdata, storage.clone())
        with torch.no_grad():
            tensor = torch.empty(0, dtype=value.dtype, device=value.device)
            tensor.set_(copy, value.storage_offset(), value.shape, value.stride())
        if value.is_leaf or not value.requires_grad:
            tensor.requires_grad_(value.requires_grad)
        else:  # what another layer made may be overwritten, as no leaf may
            source = torch.zeros((), requires_grad=True)
            with torch.enable_grad():
                tensor = _Made.apply(source, tensor)  # type: ignore[no-untyped-call]
            tensor.retain_grad()
        copies[id(value)] = tensor
        return tensor

    return tree_map(own, inputs)


def run_on_copies(
    module: torch.nn.Module,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    """Run a forward on copies of its inputs and put the model back; what it raises comes out."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    own_args, own_kwargs = own_copies((args, dict(kwargs)))
    with state_kept(module, device):
        forward(*own_args, **own_kwargs)


class _Made(torch.autograd.Function):
    """A tensor as something that was computed; nothing is kept for its backward."""

    @staticmethod
    def forward(ctx: Any, source: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """The value."""
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None]:
        """Nothing goes on."""
        return None, None


def differences(expected: StepRecord, got: StepRecord) -> tuple[str, ...]:
    """Names of what is not bit for bit the same."""
    names = [
        name
        for name, tensor in expected.tensors.items()
        if not same_bits(tensor, got.tensors.get(name))
    ]
    if not same_states(expected.random_states, got.random_states):
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
    return tensor.detach().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8)


def available_bytes(device: torch.device) -> int:
    """Memory that is free for a step on this device."""
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    free_bytes, _ = torch.get_device_module(device).mem_get_info(device)
    return int(free_bytes)


def acts_on_parameters(module: torch.nn.Module) -> bool:
    """Whether a step by itself changes parameters, as an optimizer in the backward does."""
    if any(getattr(m, "max_norm", None) is not None for m in module.modules()):
        return True
    return any(getattr(p, "_post_accumulate_grad_hooks", None) for p in module.parameters())


@contextlib.contextmanager
def _no_gradients(module: torch.nn.Module) -> Iterator[None]:
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient


@contextlib.contextmanager
def _same_gradients(module: torch.nn.Module) -> Iterator[None]:
    """Let a backward add to the gradients, and take it back; their values wait on the host."""
    before = [
        (parameter, gradient, gradient.to("cpu", copy=True))
        for parameter in module.parameters()
        if (gradient := parameter.grad) is not None
    ]
    try:
        yield
    finally:
        for parameter in module.parameters():
            parameter.grad = None
        for parameter, gradient, value in before:
            parameter.grad = gradient.copy_(value)


@contextlib.contextmanager
def state_kept(
    module: torch.nn.Module, device: torch.device, *, accumulates: bool = False
) -> Iterator[None]:
    """Put gradients, buffers, attributes and random states back, whatever happens meanwhile.

    Gradients are out of the way meanwhile, unless the step is to accumulate.
    """
    buffers = [(m, dict(m._buffers)) for m in module.modules()]
    values = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    # Autocast keeps its copies of parameters to the end of the caller's block: every step is to
    # make its own, which counts, and none is to find those of another.
    torch.clear_autocast_cache()
    try:
        with (
            _same_gradients(module) if accumulates else _no_gradients(module),
            kept_random_states(device),
            unchanged_attributes(module),
        ):
            yield
    finally:
        torch.clear_autocast_cache()
        for m, names in buffers:
            m._buffers.clear()
            m._buffers.update(names)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
