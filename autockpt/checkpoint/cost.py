"""The cost of one call of a submodule, alone: its time, and its memory forward and backward."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch

from autockpt.torch_private.modes import no_autocast
from autockpt.torch_private.pytree import tree_leaves
from autockpt.verify.copies import own_copies
from autockpt.verify.live_bytes import LiveBytes
from autockpt.verify.loss import backward_roots
from autockpt.verify.outside import gradients_set_aside
from autockpt.verify.step import state_kept

# A call runs at most so often, and no longer than this once it ran.
_MAX_REPEATS = 5
_REPEAT_NS = 50_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CallCost:
    """The cost of one call.

    Attributes:
        runtime_ns: The time of its forward.
        backward_ns: The time of its backward.
        forward_bytes: The peak of its forward, with what it saves and returns.
        backward_bytes: The peak of its backward, above what was in memory before it.
    """

    runtime_ns: int
    backward_ns: int
    forward_bytes: int
    backward_bytes: int


def kind_of(module: torch.nn.Module, inputs: Any) -> Any:
    """The kind of a call; calls of one kind cost the same."""
    return (
        repr(module),
        tuple(m.training for m in module.modules()),
        tuple((p.shape, p.dtype, p.requires_grad) for p in module.parameters()),
        tuple(
            (leaf.shape, leaf.layout, leaf.dtype, leaf.requires_grad)
            if isinstance(leaf, torch.Tensor)
            else repr(leaf)
            for leaf in tree_leaves(inputs)
        ),
    )


def measure_call(
    module: torch.nn.Module,
    forward: Callable[..., Any],
    inputs: tuple[tuple[Any, ...], dict[str, Any]],
    device: torch.device,
) -> CallCost | None:
    """Measure a call on copies of its inputs, forward and backward; None if it trains nothing.

    The module, the inputs and the random states are left as they were.
    """
    # The hooks of whoever watches the model must not see what is saved here.
    with torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, lambda tensor: tensor):
        with state_kept(module, device), gradients_set_aside() as outside:
            args, kwargs = own_copies(inputs)
            resting = tree_leaves((args, kwargs, [*module.parameters(), *module.buffers()]))
            with LiveBytes(resting) as tracker:
                made = _run(forward, args, kwargs)
                forward_bytes = tracker.peak_bytes
                roots, gradients = backward_roots(made)
                if not roots:
                    return None
                before_bytes = tracker.peak_bytes = tracker.live_bytes
                outside.take([root.grad_fn for root in roots], own=resting)
                with no_autocast():
                    torch.autograd.backward(roots, gradients)
            backward_bytes = tracker.peak_bytes - before_bytes
            del made, roots, gradients
        times_ns: list[tuple[int, int]] = []
        started_ns = _now(device)
        while len(times_ns) < _MAX_REPEATS and _now(device) - started_ns < _REPEAT_NS:
            with state_kept(module, device):
                times_ns.append(_times(module, forward, own_copies(inputs), device))
    return CallCost(
        runtime_ns=min(forward_ns for forward_ns, _ in times_ns),
        backward_ns=min(backward_ns for _, backward_ns in times_ns),
        forward_bytes=forward_bytes,
        backward_bytes=backward_bytes,
    )


def runs_alone(
    module: torch.nn.Module,
    forward: Callable[..., Any],
    inputs: tuple[tuple[Any, ...], dict[str, Any]],
    device: torch.device,
) -> bool:
    """Whether a call runs on copies of its inputs, forward and backward, with nothing measured."""
    with (
        torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, lambda tensor: tensor),
        state_kept(module, device),
    ):
        try:
            _times(module, forward, own_copies(inputs), device)
        except Exception:  # noqa: BLE001 - whatever the user's module raises
            return False
    return True


def _run(forward: Callable[..., Any], args: Any, kwargs: Any) -> list[Any]:
    """Return what a call returns, and what it puts into containers that it receives."""
    given = {id(leaf) for leaf in tree_leaves((args, kwargs))}
    output = forward(*args, **kwargs)
    return [leaf for leaf in tree_leaves((output, args, kwargs)) if id(leaf) not in given]


def _times(
    module: torch.nn.Module, forward: Callable[..., Any], inputs: Any, device: torch.device
) -> tuple[int, int]:
    args, kwargs = inputs
    started_ns = _now(device)
    made = _run(forward, args, kwargs)
    forward_ns = _now(device) - started_ns
    roots, gradients = backward_roots(made)
    with gradients_set_aside() as outside, no_autocast():
        outside.take(
            [root.grad_fn for root in roots], own=[*module.parameters(), *tree_leaves(inputs)]
        )
        turned_ns = _now(device)
        torch.autograd.backward(roots, gradients)
        return forward_ns, _now(device) - turned_ns


def _now(device: torch.device) -> int:
    if device.type not in ("cpu", "meta"):
        torch.get_device_module(device).synchronize(device)
    return time.perf_counter_ns()
