"""ATen operators: their schemas, and those whose names are private.

Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch

from autockpt.torch_private.pytree import tree_leaves

aten = torch.ops.aten

# Casts and copies, `Tensor.to` among them.
TO_COPY = aten._to_copy.default
# Reading a number out of a tensor: `Tensor.item` and the like.
READ_NUMBER = aten._local_scalar_dense.default
# BatchNorm as it is traced: it returns the new running statistics; and without any.
BATCH_NORM_FUNCTIONAL = aten._native_batch_norm_legit_functional.default
BATCH_NORM_NO_STATS = aten._native_batch_norm_legit.no_stats
# Backward kernels that require a contiguous gradient, by its position. The formulas in PyTorch's
# derivatives.yaml call them with gradient.contiguous(). A trace shows no such call if the gradient
# was contiguous while tracing; the one that arrives may not be.
CONTIGUOUS_GRADIENTS: dict[Any, int] = {
    aten.native_group_norm_backward.default: 0,
    aten.cudnn_batch_norm_backward.default: 1,
    aten.miopen_batch_norm_backward.default: 1,
    aten._weight_norm_interface_backward.default: 0,
    aten._cdist_backward.default: 0,
}

_EMPTY = (
    "empty",
    "empty_like",
    "empty_strided",
    "empty_permuted",
    "new_empty",
    "new_empty_strided",
)


def is_operator(target: Any) -> TypeGuard[torch._ops.OpOverload[..., Any]]:
    """Whether a node's target is an overload of an operator, not a function of Python's."""
    return isinstance(target, torch._ops.OpOverload)


def arguments_of(op: Any) -> Sequence[Any]:
    """The arguments in an operator's schema, with `name`, `default_value` and `alias_info`."""
    arguments: Sequence[Any] = op._schema.arguments
    return arguments


def writes_in_place(op: Any) -> bool:
    """Whether an operator's schema says that it writes into one of its arguments."""
    return bool(op._schema.is_mutable)


def is_written(argument: Any) -> bool:
    """Whether an operator writes into this argument of its schema."""
    return argument.alias_info is not None and bool(argument.alias_info.is_write)


def written_tensors(op: Any, args: Any, kwargs: Any) -> list[Any]:
    """What a call of an operator writes into, by its schema."""
    found: list[Any] = []
    for position, argument in enumerate(arguments_of(op)):
        if is_written(argument):
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            found.extend(tree_leaves(given))
    return found


def functional_form(op: Any) -> Any:
    """The operator that returns what this one writes: `aten.relu` for `aten.relu_`.

    None if there is none.
    """
    name = base_name(op)
    packet = getattr(aten, name.removesuffix("_"), None) if op.namespace == "aten" else None
    form = getattr(packet, op._overloadname, None) if name.endswith("_") else None
    return None if form is None or writes_in_place(form) else form


def is_empty_operator(op: Any) -> bool:
    """Whether an operator takes memory and writes nothing to it."""
    return is_operator(op) and base_name(op) in _EMPTY


def returns_nothing(op: Any) -> bool:
    """Whether an operator only changes its arguments."""
    return not op._schema.returns


def returns_views(op: Any) -> bool:
    """Whether a result of the operator may share memory with its arguments."""
    return any(returned.alias_info is not None for returned in op._schema.returns)


def base_name(op: Any) -> str:
    """An operator's name without namespace and overload: `"add"` for `aten.add.Tensor`."""
    name: str = op._opname
    return name
