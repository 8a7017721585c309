"""A backward for a forward graph that runs without a plan."""

from __future__ import annotations

from typing import Any

import torch.fx as fx

from autockpt.capture.joint import JointGraph, gives_the_same_again
from autockpt.capture.nodes import (
    batch_norm_again,
    is_batch_norm,
    is_effect,
    is_random_op,
)
from autockpt.capture.tangents import is_tangent
from autockpt.rewrite.modules import _source_name, rng_state_name
from autockpt.torch_private.generators import run_with_rng_state


def backward_from_saved(joint: JointGraph, saved_names: list[str]) -> fx.GraphModule:
    """Make a backward for gradients that the plan did not expect, from what its forward saved.

    It recomputes everything that is not saved, so it takes more time and memory than planned.

    Args:
        joint: The joint graph for the gradients that did arrive; used up.
        saved_names: What the forward saved, in the order in which the backward receives it.

    Raises:
        LookupError: Something is needed that was not saved and must not be recomputed.
    """
    source = joint.module.graph
    output_node = next(iter(source.find_nodes(op="output")))
    outputs: Any = output_node.args[0]
    outputs = outputs[joint.num_fwd_outputs :]
    saved = {_source_name(name) for name in saved_names}
    once = {op.node for op in joint.ops if not (op.is_backward or gives_the_same_again(op))}
    needed: set[fx.Node] = set()
    stack = [o for o in outputs if isinstance(o, fx.Node)]
    while stack:
        node = stack.pop()
        if node in needed:
            continue
        needed.add(node)
        if node.name in saved or is_tangent(node) or node.op == "get_attr":
            continue
        replayed = not is_random_op(node) or rng_state_name(node) in saved
        if not replayed or node in once or is_effect(node):
            raise LookupError(node.name)
        if is_batch_norm(node):
            arguments = batch_norm_again(node)[1]
            stack.extend(leaf for leaf in arguments if isinstance(leaf, fx.Node))
        else:
            stack.extend(node.all_input_nodes)
    graph = fx.Graph(joint.module)
    made: dict[fx.Node, fx.Node] = {}
    placeholders = {_source_name(name): graph.placeholder(name) for name in saved_names}
    for node in source.find_nodes(op="placeholder"):
        if is_tangent(node):
            made[node] = graph.placeholder(node.name)
    for node in source.nodes:
        if node not in needed or node in made:
            continue
        if node.name in placeholders:
            made[node] = placeholders[node.name]
        elif is_batch_norm(node):
            target, arguments = batch_norm_again(node)
            made[node] = graph.call_function(target, fx.node.map_arg(arguments, made.__getitem__))
        elif is_random_op(node):
            args = fx.node.map_arg(node.args, made.__getitem__)
            kwargs = fx.node.map_arg(node.kwargs, made.__getitem__)
            state = placeholders[rng_state_name(node)]
            made[node] = graph.call_function(
                run_with_rng_state, (state, node.target, *args), kwargs
            )
        else:
            made[node] = graph.node_copy(node, made.__getitem__)
    graph.output(tuple(made[o] if isinstance(o, fx.Node) else None for o in outputs))
    return fx.GraphModule(joint.module, graph)
