"""What one node of a joint graph may do, by its operator and the values that were traced.

Whether it draws random numbers, acts on state, may run again or in another place; and how
BatchNorm, which both normalizes and updates statistics, runs again.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.fx as fx

from autockpt.torch_private.operators import (
    BATCH_NORM_FUNCTIONAL,
    BATCH_NORM_NO_STATS,
    arguments_of,
    is_operator,
    is_written,
    writes_in_place,
)
from autockpt.torch_private.pytree import tree_leaves

aten = torch.ops.aten

_KNOWN = (
    "aten",
    "prims",
    "autockpt",
)  # namespaces of operators that do only what their schema says
# Kernels that add with atomics on an accelerator: two runs may differ in the last bits.
_UNORDERED_SUMS = {
    aten.index_add,
    aten.index_put,
    aten.scatter_add,
    aten.scatter_reduce,
    aten.bincount,
    aten.histc,
    aten.cumsum,
}
# Operators that update BatchNorm's running statistics while they normalize. The schemas of the
# first two do not say so. All have the same argument positions.
_BATCH_NORM_FORWARD = {
    aten.native_batch_norm.default,
    aten.cudnn_batch_norm.default,
    BATCH_NORM_FUNCTIONAL,
}


def tensors_of(value: Any) -> list[torch.Tensor]:
    """The tensors in a node's ``meta["val"]``, in order."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def is_random_op(node: fx.Node) -> bool:
    """Whether the operator draws random numbers when called with this node's arguments."""
    target = node.target
    seeded = torch.Tag.nondeterministic_seeded
    if not is_operator(target) or seeded not in target.tags:
        return False
    for position, argument in enumerate(arguments_of(target)):
        if argument.name in ("dropout_p", "p", "dropout"):
            value = node.kwargs.get(
                argument.name,
                node.args[position] if position < len(node.args) else argument.default_value,
            )
            if value == 0:
                return False
    return True


def is_effect(node: fx.Node) -> bool:
    """Whether a node changes something other than its result, and so must run exactly once."""
    if node.op in ("placeholder", "output"):
        return True
    if node.op != "call_function":
        return False
    if is_operator(node.target):
        return writes_in_place(node.target) or node.is_impure(impure_random=False)
    return node.target is not operator.getitem and node.is_impure(impure_random=False)


def may_run_again(node: fx.Node, *, on_accelerator: bool = False) -> bool:
    """Whether running the node again is known to give the same bits and to do nothing else.

    ``on_accelerator`` tells that it runs on one, though its tensors are on none.

    That is not known for operators of other libraries, higher-order operators, and kernels that sum
    in no fixed order on an accelerator.
    """
    target = node.target
    if is_effect(node) or not is_operator(target):
        return False
    if target.namespace not in _KNOWN:
        return False
    on_cpu = all(t.device.type == "cpu" for t in tensors_of(node.meta.get("val")))
    return (on_cpu and not on_accelerator) or target.overloadpacket not in _UNORDERED_SUMS


def may_move(node: fx.Node) -> bool:
    """Whether the node may change places in the backward with others that it does not depend on.

    Nodes that act on state or draw random numbers may not, nor operators of other libraries.
    """
    if is_effect(node) or is_random_op(node):
        return False
    return is_operator(node.target) and node.target.namespace in _KNOWN


def is_batch_norm(node: fx.Node) -> bool:
    """Whether the node is a BatchNorm that updates its running statistics."""
    return node.target in _BATCH_NORM_FORWARD and bool(node.args[5])


def activation_writes(node: fx.Node, writes: tuple[int, ...]) -> tuple[int, ...]:
    """The new storages of an op that are activations, not new running statistics."""
    return writes[:3] if node.target is BATCH_NORM_FUNCTIONAL else writes


def batch_norm_again(node: fx.Node) -> tuple[Any, tuple[Any, ...]]:
    """An operator and arguments that normalize again without updating running statistics."""
    x, weight, bias, _, _, training, momentum, eps = node.args
    if node.target is BATCH_NORM_FUNCTIONAL:
        return BATCH_NORM_NO_STATS, (x, weight, bias, training, momentum, eps)
    return node.target, (x, weight, bias, None, None, training, momentum, eps)


def written_arguments(node: fx.Node) -> list[fx.Node]:
    """The nodes whose values an operator writes in place, by its schema.

    The schema of ``native_batch_norm`` does not tell that it updates its running statistics.
    """
    if not is_operator(node.target):
        return []
    found: list[fx.Node] = []
    if is_batch_norm(node) and node.target is not BATCH_NORM_FUNCTIONAL:
        found += [leaf for leaf in node.args[3:5] if isinstance(leaf, fx.Node)]
    for position, argument in enumerate(arguments_of(node.target)):
        if is_written(argument):
            value = (
                node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            )
            found.extend(leaf for leaf in tree_leaves(value) if isinstance(leaf, fx.Node))
    return found
