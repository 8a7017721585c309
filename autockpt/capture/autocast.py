"""Sum gradients of a parameter that autocast casts once as eager does: before the cast.

If a parameter is used several times, eager's autocast keeps one low-precision copy of it until the
end of the outermost block of autocast. Its gradients are summed in low precision and cast once.
Tracing makes a cast for every use, and the sum is in float32, with other last bits. With
``cache_enabled=False``, Lightning's choice, eager casts for every use as well.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.fx as fx

from autockpt.torch_private.aot import AUTOCAST_BLOCKS, AUTOCAST_CACHES
from autockpt.torch_private.fakes import fake_like
from autockpt.torch_private.operators import TO_COPY

aten = torch.ops.aten

_HALF = (torch.float16, torch.bfloat16)
# Dynamo's names for casts that the program itself asks for; eager makes those one by one too.
_ASKED_FOR = {"to", "type", "half", "bfloat16", "float", "type_as", "_to_copy"}


def share_casts(graph: fx.Graph, *, num_fwd_outputs: int) -> None:
    """Merge autocast's casts of one parameter in a joint graph, and sum their gradients in it."""
    output = next(iter(graph.find_nodes(op="output")))
    if not output.meta.get(AUTOCAST_CACHES, True):
        return
    outputs: list[Any] = list(output.args[0])
    primals = [p for p in graph.find_nodes(op="placeholder") if "tangents" not in str(p.target)]
    for index, primal in enumerate(primals):
        casts = [user for user in primal.users if _is_autocast(user)]
        if len({cast.meta["val"].dtype for cast in casts}) > 1:
            continue
        position = num_fwd_outputs + index
        # Autocast frees its casts at the end of a block and casts again in the next.
        blocks = [output.meta.get(AUTOCAST_BLOCKS, {}).get(_source(cast)[0], 0) for cast in casts]
        for block in dict.fromkeys(blocks):
            first, *others = (c for c, own in zip(casts, blocks, strict=True) if own == block)
            for cast in others:
                cast.replace_all_uses_with(first)
            gradient = outputs[position] if position < len(outputs) else None
            if others and isinstance(gradient, fx.Node):
                outputs[position] = _cast_once(graph, gradient, [first, *others])
    output.args = (tuple(outputs),)


def _is_autocast(node: fx.Node) -> bool:
    if node.target is not TO_COPY:
        return False
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dtype not in _HALF:
        return False
    if not node.meta.get("source_fn_stack"):
        return False
    _, asked = _source(node)
    return (asked if isinstance(asked, str) else getattr(asked, "__name__", "")) not in _ASKED_FOR


def _source(cast: fx.Node) -> tuple[str, Any]:
    """Name and target of the node of Dynamo's graph that a cast comes from."""
    name, target = cast.meta["source_fn_stack"][-1]
    return name, target


def _cast_once(graph: fx.Graph, gradient: fx.Node, casts: list[fx.Node]) -> fx.Node:
    """A parameter's gradient, with what came through its casts summed before it is cast.

    The sum replaces what came through the first cast, which eager's autograd runs last.
    """
    # A node of the backward has the sequence number of the forward node that it belongs to.
    numbers = {cast.meta.get("seq_nr") for cast in casts} - {None}
    summands = _summands(gradient, numbers)
    halves = [summand for summand in summands if _is_cast_back(summand, numbers)]
    if len(halves) < 2:
        return gradient
    total: fx.Node | None = None
    with graph.inserting_before(gradient):
        for summand in summands:
            if summand in halves[:-1]:
                continue
            is_cast_here = summand is halves[-1]
            part = _cast(graph, [h.args[0] for h in halves], summand) if is_cast_here else summand
            total = part if total is None else _added(graph, total, part)
    assert total is not None
    return total


def _is_cast_back(node: Any, numbers: set[Any]) -> bool:
    return node.target is TO_COPY and node.meta.get("seq_nr") in numbers


def _summands(node: fx.Node, numbers: set[Any]) -> list[fx.Node]:
    """What a parameter's gradient is the sum of, in order, as far as casts are among it.

    Only sums for the parameter itself count: the gradient of another value may be a sum as well.
    """
    if node.target is not aten.add.Tensor or len(node.args) != 2 or node.kwargs:
        return [node]
    before, last = node.args
    if not (isinstance(before, fx.Node) and isinstance(last, fx.Node)):
        return [node]
    earlier = _summands(before, numbers)
    if any(_is_cast_back(summand, numbers) for summand in (*earlier, last)):
        return [*earlier, last]
    return [node]


def _cast(graph: fx.Graph, halves: list[Any], like: fx.Node) -> fx.Node:
    total: fx.Node = halves[0]
    for half in halves[1:]:
        total = _added(graph, total, half)
    cast = graph.call_function(TO_COPY, (total,), {"dtype": torch.float32})
    cast.meta["val"] = like.meta["val"]
    return cast


def _added(graph: fx.Graph, left: fx.Node, right: fx.Node) -> fx.Node:
    total = graph.call_function(aten.add.Tensor, (left, right))
    total.meta["val"] = fake_like(left.meta["val"])
    return total
