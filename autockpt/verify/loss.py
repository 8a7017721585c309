"""Where a training step starts its backward."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge

from autockpt.errors import CaptureError, NotTrainableError
from autockpt.loop import Loop
from autockpt.torch_private.pytree import tree_leaves
from autockpt.user_code import raised_at
from autockpt.verify.inputs import input_leaves


def find_loss(
    output: Any, loss_fn: Callable[[Any], torch.Tensor] | None, used: frozenset[int] | None = None
) -> list[torch.Tensor]:
    """Returns the loss, or every differentiable output if none of them is a loss.

    A loss is ``loss_fn(output)``, an attribute or key ``loss`` of the output, or all of its scalars
    that require a gradient, which detectors return for the loop to add up.

    Args:
        output: What the forward returned.
        loss_fn: Makes the loss, if that happens outside of the model.
        used: Positions among the leaves of the output from which the backward starts, if known.

    Raises:
        CaptureError: ``loss_fn`` fails.
        NotTrainableError: It returns no loss.
    """
    if loss_fn is not None:
        return [_made_by(loss_fn, output)]
    if used is not None:
        chosen = [leaf for at, leaf in enumerate(tree_leaves(output)) if at in used]
        if found := _differentiable(chosen):
            return found
    named = getattr(output, "loss", None)
    if named is None and isinstance(output, Mapping):
        named = output.get("loss")
    candidates = _differentiable(output)
    if isinstance(named, torch.Tensor) and named.requires_grad and named.numel() == 1:
        return [named]
    scalars = [t for t in candidates if t.numel() == 1]
    return scalars or candidates


def _made_by(loss_fn: Callable[[Any], torch.Tensor], output: Any) -> torch.Tensor:
    try:
        loss: Any = loss_fn(output)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        place = raised_at(error)
        raise CaptureError(
            where=f"loss_fn ({place})" if place else "loss_fn",
            reason=f"it fails on the model's output: {type(error).__name__}: {lines[0]}",
        ) from error
    if not isinstance(loss, torch.Tensor):
        wrong = f"loss_fn returned {type(loss).__name__}"
    elif loss.numel() != 1:
        wrong = f"loss_fn returned a tensor of shape {tuple(loss.shape)}"
    elif not loss.requires_grad and _differentiable(output):
        wrong = "what loss_fn returned does not require grad, though the model's output does"
    else:
        return loss
    raise NotTrainableError(
        wrong, advice="It must return a scalar tensor made of the output, such as its mean()."
    )


def _differentiable(value: Any) -> list[torch.Tensor]:
    return [t for t in tree_leaves(value) if isinstance(t, torch.Tensor) and t.requires_grad]


def backward_roots(loss: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Returns the tensors that a backward starts from, and their gradients."""
    roots = _differentiable(loss)
    return roots, [torch.ones_like(root) for root in roots]


def trained_tensors(module: torch.nn.Module, inputs: Any) -> list[torch.Tensor]:
    """Returns what a backward may reach: parameters that require grad, then such inputs."""
    return [*(p for p in module.parameters() if p.requires_grad), *_trained(inputs)]


def _trained(inputs: Any) -> list[torch.Tensor]:
    leaves = input_leaves(inputs)
    return [t for t in leaves if isinstance(t, torch.Tensor) and t.requires_grad]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BackwardRoots:
    """Where a backward starts, without keeping tensors that are to be freed before it."""

    roots: tuple[Any, ...]
    gradients: tuple[Callable[[], torch.Tensor], ...]

    @property
    def nodes(self) -> list[Any]:
        """The autograd nodes that the backward starts from; None for a leaf."""
        return [
            root.grad_fn if isinstance(root, torch.Tensor) else root.node for root in self.roots
        ]

    @classmethod
    def of(cls, loss: Any, freed: frozenset[int]) -> BackwardRoots:
        """The roots of a loss; of a tensor whose `id` is among ``freed``, only its edge is kept."""
        roots: list[Any] = []
        gradients: list[Callable[[], torch.Tensor]] = []
        for root in _differentiable(loss):
            if id(root) in freed and root.grad_fn is not None:
                roots.append(get_gradient_edge(root))
                ones = functools.partial(
                    torch.ones, root.shape, dtype=root.dtype, device=root.device
                )
                gradients.append(ones)
            else:
                roots.append(root)
                gradients.append(functools.partial(torch.ones_like, root))
        return cls(roots=tuple(roots), gradients=tuple(gradients))


def run_backward(calls: list[BackwardRoots], *, keeps_graph: bool = False) -> None:
    """Runs one backward through all calls."""
    roots = [root for call in calls for root in call.roots]
    gradients = [make() for call in calls for make in call.gradients]
    torch.autograd.backward(roots, gradients, retain_graph=keeps_graph)


def freed_tensors(output: Any, loop: Loop) -> frozenset[int]:
    """Returns the `id` of each tensor of an output that is freed before the backward.

    A single number, such as a loss, is kept.
    """
    leaves = [leaf for at, leaf in enumerate(tree_leaves(output)) if loop.frees(at)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return frozenset(id(tensor) for tensor in tensors if tensor.numel() > 1)


def require_gradient(loss: Any) -> None:
    """Raises NotTrainableError if a backward has nowhere to start."""
    if not backward_roots(loss)[0]:
        raise NotTrainableError("no output of its forward requires grad")


def foreign_ops(loss: Any) -> tuple[str, ...]:
    """Returns the names of autograd nodes that compute something outside the captured graphs."""
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
