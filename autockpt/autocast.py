"""Sum gradients of a parameter that autocast casts once as eager does: before the cast, not after.

Eager's autocast keeps one low-precision copy of a parameter that is used several times, so its
gradients meet in low precision and are cast once. Traced, there is a cast for every use, and they
meet in float32: other last bits. With ``cache_enabled=False`` (Lightning's choice) eager casts for
every use as well.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.fx as fx

from autockpt.torch_private import AUTOCAST_CACHES

aten = torch.ops.aten

_HALF = (torch.float16, torch.bfloat16)
# Dynamo's names for casts that the program asks for itself; those eager makes one by one as well.
_ASKED_FOR = {"to", "type", "half", "bfloat16", "float", "type_as", "_to_copy"}


def share_casts(graph: fx.Graph, *, num_fwd_outputs: int) -> None:
    """Merge autocast's casts of one parameter in a joint graph, and sum their gradients in it."""
    output = next(iter(graph.find_nodes(op="output")))
    if not output.meta.get(AUTOCAST_CACHES, True):
        return
    outputs: list[Any] = list(output.args[0])
    primals = [p for p in graph.find_nodes(op="placeholder") if "tangents" not in str(p.target)]
    changed = False
    for index, primal in enumerate(primals):
        casts = [user for user in primal.users if _is_autocast(user)]
        if len(casts) < 2 or len({cast.meta["val"].dtype for cast in casts}) > 1:
            continue
        for cast in casts[1:]:
            cast.replace_all_uses_with(casts[0])
        position = num_fwd_outputs + index
        gradient = outputs[position] if position < len(outputs) else None
        if isinstance(gradient, fx.Node) and gradient.target is aten.add.Tensor:
            parts = _parts(gradient)
            if parts is not None:
                with graph.inserting_before(gradient):
                    outputs[position] = _summed(graph, gradient, parts)
                changed = True
    if changed:
        output.args = (tuple(outputs),)


def _is_autocast(node: fx.Node) -> bool:
    if node.target is not aten._to_copy.default:
        return False
    value, source = node.meta.get("val"), node.meta.get("source_fn_stack")
    if not isinstance(value, torch.Tensor) or value.dtype not in _HALF or not source:
        return False
    asked = source[-1][1]
    return (asked if isinstance(asked, str) else getattr(asked, "__name__", "")) not in _ASKED_FOR


def _parts(node: fx.Node) -> list[fx.Node] | None:
    """Low-precision summands of a sum of casts, in the order in which they are added."""
    if node.target is aten._to_copy.default:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return [source] if source.meta["val"].dtype in _HALF else None
    if node.target is not aten.add.Tensor or len(node.args) != 2 or node.kwargs:
        return None
    found: list[fx.Node] = []
    for argument in node.args:
        parts = _parts(argument) if isinstance(argument, fx.Node) else None
        if parts is None:
            return None
        found += parts
    return found


def _summed(graph: fx.Graph, gradient: fx.Node, parts: list[fx.Node]) -> fx.Node:
    total = parts[0]
    for part in parts[1:]:
        total = graph.call_function(aten.add.Tensor, (total, part))
        total.meta["val"] = torch.empty_like(parts[0].meta["val"])
    cast = graph.call_function(aten._to_copy.default, (total,), {"dtype": torch.float32})
    cast.meta["val"] = torch.empty_like(gradient.meta["val"])
    return cast
