"""Which nodes of a joint graph belong to the backward, and which the forward needs."""

from __future__ import annotations

from collections.abc import Iterable

import torch.fx as fx

from autockpt.capture.nodes import is_random_op
from autockpt.capture.tangents import is_tangent


def backward_nodes(graph: fx.Graph, num_fwd_outputs: int) -> frozenset[fx.Node]:
    """Tangents, what depends on them, and the random numbers that the backward itself draws.

    Those are traced after the forward, so they come after all outputs of the forward.
    """
    outputs = next(iter(graph.find_nodes(op="output"))).args[0][:num_fwd_outputs]
    left = {node for node in outputs if isinstance(node, fx.Node) and node.op == "call_function"}
    found: set[fx.Node] = set()
    has_begun = False
    for node in graph.nodes:
        depends = any(parent in found for parent in node.all_input_nodes)
        # The forward's last draws may have no reader, or one in the backward: torch tags them.
        is_forward = not node.users or node.meta.get("partitioner_tag") == "is_forward"
        is_behind = has_begun or (not left and not is_forward)
        if is_tangent(node) or depends or (is_behind and is_random_op(node)):
            found.add(node)
        has_begun = has_begun or depends
        left.discard(node)
    return frozenset(found)


def with_ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """These nodes and all nodes that they depend on."""
    found: set[fx.Node] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.all_input_nodes)
    return found
