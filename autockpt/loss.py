"""What a training step starts its backward from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from autockpt.errors import NotTrainableError


def find_loss(output: Any, loss_fn: Callable[[Any], torch.Tensor] | None) -> list[torch.Tensor]:
    """What the backward starts from: the loss, or every differentiable output when none is one.

    A loss is ``loss_fn(output)``, an attribute or key ``loss`` of the output, or its first scalar
    that requires a gradient.
    """
    if loss_fn is not None:
        loss: Any = loss_fn(output)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            what = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise NotTrainableError(f"loss_fn returned {what}; it must return a scalar tensor")
        return [loss]
    named = getattr(output, "loss", None)
    if named is None and isinstance(output, Mapping):
        named = output.get("loss")
    candidates = [t for t in tree_leaves(output) if isinstance(t, torch.Tensor) and t.requires_grad]
    if isinstance(named, torch.Tensor) and named.requires_grad and named.numel() == 1:
        return [named]
    scalars = [t for t in candidates if t.numel() == 1]
    return scalars[:1] or candidates


def backward_roots(loss: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The tensors that a backward starts from, and the gradients that it starts with."""
    roots = [t for t in tree_leaves(loss) if isinstance(t, torch.Tensor) and t.requires_grad]
    return roots, [torch.ones_like(root) for root in roots]


def require_gradient(loss: Any) -> None:
    """Raise NotTrainableError where a backward has nowhere to start."""
    if not backward_roots(loss)[0]:
        raise NotTrainableError("no output of its forward requires grad")


def foreign_ops(loss: Any) -> tuple[str, ...]:
    """Names of autograd nodes that compute something and belong to no captured graph."""
    own = ("CompiledFunctionBackward", "torch::autograd::AccumulateGrad", "AliasBackward0")
    names: dict[str, None] = {}
    seen: set[Any] = set()
    stack = [t.grad_fn for t in tree_leaves(loss) if isinstance(t, torch.Tensor)]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() not in own and "View" not in node.name():
            names.setdefault(node.name())
        stack.extend(parent for parent, _ in node.next_functions)
    return tuple(names)
