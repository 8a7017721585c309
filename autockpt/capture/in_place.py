"""Elementwise operators of a backward that write over an input which nothing else reads.

Eager's autograd adds gradients in place if it can; traced, every sum is a new tensor. If an
operator is the last to read its first input, and the result has the same layout, the result takes
the input's memory: the same kernel on the same strides, so the same bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import eq
from typing import Any

import torch
import torch.fx as fx

from autockpt.torch_private.graphs import statically_known_true
from autockpt.torch_private.operators import base_name, is_operator, returns_views

aten = torch.ops.aten

# Operators that read each element before they write it, with the form that takes an output.
_FORMS: dict[Any, tuple[Any, str]] = {
    aten.add.Tensor: (aten.add.out, "out"),
    aten.sub.Tensor: (aten.sub.out, "out"),
    aten.mul.Tensor: (aten.mul.out, "out"),
    aten.div.Tensor: (aten.div.out, "out"),
    aten.neg.default: (aten.neg.out, "out"),
    aten.threshold_backward.default: (aten.threshold_backward.grad_input, "grad_input"),
    aten.leaky_relu_backward.default: (aten.leaky_relu_backward.grad_input, "grad_input"),
    aten.hardtanh_backward.default: (aten.hardtanh_backward.grad_input, "grad_input"),
    aten.elu_backward.default: (aten.elu_backward.grad_input, "grad_input"),
    aten.gelu_backward.default: (aten.gelu_backward.grad_input, "grad_input"),
    aten.silu_backward.default: (aten.silu_backward.grad_input, "grad_input"),
    aten.tanh_backward.default: (aten.tanh_backward.grad_input, "grad_input"),
    aten.sigmoid_backward.default: (aten.sigmoid_backward.grad_input, "grad_input"),
}
# Operators whose result is their input itself if there is nothing to do.
_MAY_PASS_ON = {"contiguous", "conj_physical", "resolve_conj", "resolve_neg", "reshape", "to"}


def overwritten_storages(
    backward: list[tuple[fx.Node, tuple[int, ...], tuple[int, ...]]],
    node_storages: Mapping[fx.Node, tuple[int, ...]],
    kept: set[int],
) -> dict[fx.Node, int]:
    """Which operators may write over the storage of their first input, and over which.

    Args:
        backward: The operators of the backward, with the storages that each reads and writes.
        node_storages: Storages of every node's value.
        kept: Storages that something else keeps: inputs, outputs, results of the forward.
    """
    num_readers = Counter(storage for _, reads, _ in backward for storage in reads)
    producers = {storage: node for node, _, writes in backward for storage in writes}
    found: dict[fx.Node, int] = {}
    for node, _, writes in backward:
        first = node.args[0] if node.args and node.target in _FORMS else None
        if not isinstance(first, fx.Node) or len(writes) != 1 or len(node_storages[first]) != 1:
            continue
        (storage,) = node_storages[first]
        producer = producers.get(storage)
        if producer is None or storage in kept or num_readers[storage] != 1:
            continue
        others = [n for n in node.all_input_nodes if n is not first and storage in node_storages[n]]
        if not others and _makes_new_memory(producer) and _same_layout(first, node):
            found[node] = storage
    return found


def write_over_first(node: fx.Node) -> None:
    """Let a node write its result over its first input."""
    operator: Any = node.target
    node.args = (operator, *node.args)
    node.target = over_first


def over_first(op: Any, first: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Run an operator and write the result into its first input.

    Gradients may arrive with other strides than were traced. If the result would then have other
    strides than the input, it gets memory of its own.
    """
    if not (_keeps_strides(first) and _are_alike(first, args, eq)):
        result: torch.Tensor = op(first, *args, **kwargs)
        return result
    form, name = _FORMS[op]
    written: torch.Tensor = form(first, *args, **kwargs, **{name: first})
    return written


def _makes_new_memory(node: fx.Node) -> bool:
    target = node.target
    if not is_operator(target) or target.namespace != "aten":
        return False
    return not returns_views(target) and base_name(target) not in _MAY_PASS_ON


def _same_layout(first: fx.Node, node: fx.Node) -> bool:
    """Whether the result fills its memory as the input does."""
    given, result = first.meta.get("val"), node.meta.get("val")
    if not isinstance(given, torch.Tensor) or not isinstance(result, torch.Tensor):
        return False
    others = fx.node.map_arg(node.args[1:], lambda argument: argument.meta.get("val"))
    bytes_of_first = given.numel() * given.element_size()
    return (
        given.dtype == result.dtype
        and _are_equal(given.shape, result.shape)
        and _are_equal([given.untyped_storage().nbytes()], [bytes_of_first])
        and _keeps_strides(given)
        and _are_alike(given, others, _are_equal)
    )


def _keeps_strides(tensor: torch.Tensor) -> bool:
    """Whether a new tensor like it has its strides: there are neither gaps nor overlaps.

    A dimension of size 1 may have any stride. A result may have another stride there, and kernels
    choose by strides. So with such a dimension, all strides must be those of a contiguous tensor.
    """
    format_ = torch.preserve_format
    if any(statically_known_true(size == 1) for size in tensor.shape):
        format_ = torch.contiguous_format
    elif tensor.is_contiguous():
        return True
    like = torch.empty_like(tensor, device="meta", memory_format=format_)
    return _are_equal(like.stride(), tensor.stride())


def _are_alike(
    first: torch.Tensor, others: Sequence[Any], are_equal: Callable[[Any, Any], bool]
) -> bool:
    """Whether an elementwise result has the strides of `first`: no other input has others."""
    shape, strides = first.shape, first.stride()
    return not any(
        isinstance(other, torch.Tensor)
        and other.dim()
        and not (are_equal(strides, other.stride()) and are_equal(shape, other.shape))
        for other in others
    )


def _are_equal(left: Sequence[Any], right: Sequence[Any]) -> bool:
    """Whether sizes are equal, whatever values symbolic sizes have."""
    return len(left) == len(right) and all(
        statically_known_true(a == b) for a, b in zip(left, right, strict=True)
    )
