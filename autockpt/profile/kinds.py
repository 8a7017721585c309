"""The kinds of kernels that an estimate tells apart, by operator."""

from __future__ import annotations

from typing import Any, Literal

import torch.fx as fx

from autockpt.torch_private.operators import arguments_of, is_operator

Kind = Literal[
    "matmul",
    "convolution",
    "attention",
    "attention_backward",
    "normalization",
    "normalization_backward",
    "elementwise",
]
_MATMULS = frozenset({"mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "_grouped_mm", "einsum"})
_NORMALIZATIONS = ("norm", "softmax", "cross_entropy", "nll_loss")


def kind_of(target: Any) -> Kind:
    """Returns the kind of an operator's kernel."""
    if not is_operator(target):
        return "elementwise"
    name = target.overloadpacket.__name__
    is_backward = name.endswith("backward")
    if "attention" in name:
        return "attention_backward" if is_backward else "attention"
    if "convolution" in name:
        return "convolution"
    if name in _MATMULS:
        return "matmul"
    if any(part in name for part in _NORMALIZATIONS):
        return "normalization_backward" if is_backward else "normalization"
    return "elementwise"


def is_causal(node: fx.Node) -> bool:
    """Whether the node is an attention that hides later tokens."""
    if not is_operator(node.target) or "attention" not in node.target.overloadpacket.__name__:
        return False
    for position, argument in enumerate(arguments_of(node.target)):
        if argument.name == "is_causal":
            given = node.args[position] if position < len(node.args) else None
            return bool(node.kwargs.get("is_causal", given))
    return False
