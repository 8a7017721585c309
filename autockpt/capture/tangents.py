"""Tangents: gradients that enter a joint graph from outside, some of which never arrive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.fx as fx

from autockpt.torch_private.fakes import fake_like, run_on_fakes
from autockpt.torch_private.operators import CONTIGUOUS_GRADIENTS
from autockpt.torch_private.tensors import suggest_memory_format

aten = torch.ops.aten

# Views whose formulas require a contiguous gradient, by its position.
_VIEWS_OF_CONTIGUOUS = {
    aten.view_as_complex.default: 0,
    aten.view_as_real.default: 0,
    aten.as_strided.default: 0,
}
_LAID_OUT = {**CONTIGUOUS_GRADIENTS, **_VIEWS_OF_CONTIGUOUS}


def is_tangent(node: fx.Node) -> bool:
    """Whether a node is a placeholder for a gradient from outside the graph."""
    return node.op == "placeholder" and "tangents" in str(node.target)


def drop_tangents(graph: fx.Graph, absent: frozenset[int]) -> None:
    """Remove from the backward what depends on gradients that do not arrive.

    The backward is linear in its tangents. If all inputs of a node that depend on tangents are
    absent, the node is absent too, as in eager autograd. A sum with an absent part is its other
    part. Any other mixture gets zeros for the absent part, which is what eager materializes.
    """
    tangents = [node for node in graph.nodes if is_tangent(node)]
    gone = {tangents[i] for i in absent}
    if not gone:
        return
    mended: dict[tuple[fx.Node, fx.Node], torch.Tensor] = {}
    closure: set[fx.Node] = set(tangents)
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        dependent = [parent for parent in node.all_input_nodes if parent in closure]
        if not dependent:
            continue
        closure.add(node)
        missing = [parent for parent in dependent if parent in gone]
        if not missing:
            continue
        if len(missing) == len(dependent):
            gone.add(node)
        elif node.target is aten.add.Tensor and len(node.args) == 2 and not node.kwargs:
            part: Any = node.args[1] if node.args[0] in gone else node.args[0]
            mended.update(dict.fromkeys([(user, part) for user in node.users], node.meta["val"]))
            node.replace_all_uses_with(part)
        else:
            for parent in missing:
                with graph.inserting_before(node):
                    zeros = _zeros_like(graph, parent)
                node.replace_input_with(parent, zeros)
                closure.add(zeros)
    output = next(iter(graph.find_nodes(op="output")))
    outputs = output.args[0]
    output.args = (
        type(outputs)(None if isinstance(o, fx.Node) and o in gone else o for o in outputs),
    )
    _trace_layouts_again(graph, mended)


def _trace_layouts_again(
    graph: fx.Graph, mended: dict[tuple[fx.Node, fx.Node], torch.Tensor]
) -> None:
    """Trace the nodes behind a removed sum again, on its other part.

    The part may have other strides than the sum. An operator's workspace depends on them, and
    whether it can view its input without a copy.
    """
    users = {user for user, _ in mended}
    before: dict[fx.Node, torch.Tensor] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node not in users and not any(parent in before for parent in node.all_input_nodes):
            continue
        if node.target in _LAID_OUT:
            of_sums = {part: value for (user, part), value in mended.items() if user is node}
            _lay_out_gradient(graph, node, before | of_sums)
        try:
            value = _run(node)
        except Exception:  # noqa: BLE001 - any error of a fake kernel for a layout that it rejects
            if node.target is not aten.view.default:
                continue
            node.target = aten.reshape.default
            value = _run(node)
        before[node] = node.meta["val"]
        node.meta["val"] = value


def _lay_out_gradient(
    graph: fx.Graph, node: fx.Node, before: Mapping[fx.Node, torch.Tensor]
) -> None:
    """Copy a gradient to the layout that it had, if the formula of eager's autograd does that."""
    gradient: Any = node.args[_LAID_OUT[node.target]]
    then = before.get(gradient)
    if then is None or gradient.meta["val"].stride() == then.stride():
        return
    with graph.inserting_before(node):
        copied = graph.call_function(
            aten.clone.default, (gradient,), {"memory_format": suggest_memory_format(then)}
        )
    copied.meta = {**gradient.meta, "val": fake_like(then)}
    node.replace_input_with(gradient, copied)


def _run(node: fx.Node) -> Any:
    def value_of(argument: fx.Node) -> Any:
        return argument.meta.get("val")

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), value_of)
    return run_on_fakes(node.target, args, kwargs)


def _zeros_like(graph: fx.Graph, node: fx.Node) -> fx.Node:
    value = node.meta["val"]
    zeros = graph.call_function(
        aten.new_empty_strided.default,
        (_any_tensor(graph), value.shape, value.stride()),
        {"dtype": value.dtype, "device": value.device},
    )
    zeros.meta["val"] = fake_like(value)
    filled = graph.call_function(aten.zeros_like.default, (zeros,))
    filled.meta["val"] = fake_like(value)
    return filled


def _any_tensor(graph: fx.Graph) -> fx.Node:
    placeholders: list[fx.Node] = list(graph.find_nodes(op="placeholder"))
    return next(p for p in placeholders if isinstance(p.meta.get("val"), torch.Tensor))
