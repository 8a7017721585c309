"""Gradients that come into a joint graph from outside, and those that never arrive."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx as fx

from autockpt.torch_private import run_on_fakes

aten = torch.ops.aten


def is_tangent(node: fx.Node) -> bool:
    """Whether this placeholder is a gradient that comes in from outside the graph."""
    return node.op == "placeholder" and "tangents" in str(node.target)


def drop_tangents(graph: fx.Graph, absent: frozenset[int]) -> None:
    """Take out of the backward what comes from gradients that do not arrive.

    The backward is linear in its tangents, so a node whose tangent-dependent inputs are all absent
    is absent too, as in eager autograd; a sum with an absent part is its other part; any other
    mixture gets zeros for the absent part, which is what eager materializes.
    """
    tangents = [node for node in graph.nodes if is_tangent(node)]
    gone = {tangents[i] for i in absent}
    if not gone:
        return
    mended: set[fx.Node] = set()
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
            left, right = node.args
            mended.update(node.users)
            node.replace_all_uses_with(right if left in gone else left)
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


def _trace_layouts_again(graph: fx.Graph, mended: set[fx.Node]) -> None:
    """Let nodes behind a sum that is gone say what they make of its other part.

    The part may have other strides than the sum had, on which the workspace of an operator, and
    whether it can look at its input without a copy, depend.
    """
    changed: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node not in mended and not any(parent in changed for parent in node.all_input_nodes):
            continue
        try:
            value = _run(node)
        except Exception:  # noqa: BLE001 - whatever a stand-in raises for a layout it does not take
            if node.target is not aten.view.default:
                continue
            node.target = aten.reshape.default
            value = _run(node)
        node.meta["val"] = value
        changed.add(node)


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
    zeros.meta["val"] = torch.empty_like(value)
    filled = graph.call_function(aten.zeros_like.default, (zeros,))
    filled.meta["val"] = torch.empty_like(value)
    return filled


def _any_tensor(graph: fx.Graph) -> fx.Node:
    placeholders: list[fx.Node] = list(graph.find_nodes(op="placeholder"))
    return next(p for p in placeholders if isinstance(p.meta.get("val"), torch.Tensor))
