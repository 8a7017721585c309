"""The logits of a captured step: what a loss over classes is computed from, and their gradients.

They are found in the graph: the tensors around a log-softmax over the last dimension, up to the
matrix product that makes them and to those that their gradient goes into. Gradients of the weights
of that product have other shapes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.fx as fx

from autockpt.ladder.graphs import GraphPlanner
from autockpt.profile.kinds import kind_of
from autockpt.torch_private.operators import is_operator


def logits_of(planner: GraphPlanner) -> frozenset[int]:
    """Returns the storages of the engine's graph that logits and their gradients are in."""
    nodes: set[fx.Node] = set()
    for graph in planner.captured.graphs:
        for op in graph.joint.ops:
            if _name(op.node) == "_log_softmax" and _is_over_the_last(op.node):
                nodes |= _around(op.node)
    found: set[int] = set()
    for lowered, origin in zip(planner.lowered.graph.ops, planner.lowered.origins, strict=True):
        if origin.joint_op >= 0:
            joint = planner.captured.graphs[origin.region].joint
            if joint.ops[origin.joint_op].node in nodes:
                found.update(lowered.writes)
    return frozenset(found)


def _around(softmax: fx.Node) -> set[fx.Node]:
    """The nodes with the classes of a log-softmax, for about as many rows, next to each other."""
    scores = softmax.meta["val"]
    found, pending = {softmax}, [softmax]
    while pending:
        node = pending.pop()
        for other in _beside(node):
            if other not in found and _is_like(other, scores):
                found.add(other)
                pending.append(other)
    return found


def _beside(node: fx.Node) -> Iterator[fx.Node]:
    """What a node reads, unless it is a product of matrices, and what else reads it."""
    if kind_of(node.target) != "matmul":
        yield from node.all_input_nodes
    yield from (user for user in node.users if kind_of(user.target) != "matmul")


def _is_like(node: fx.Node, scores: torch.Tensor) -> bool:
    value = node.meta.get("val")
    return (
        node.op == "call_function"
        and isinstance(value, torch.Tensor)
        and value.dim() > 1
        and value.size(-1) == scores.size(-1)
        and scores.numel() <= 2 * value.numel() <= 4 * scores.numel()
    )


def _is_over_the_last(softmax: fx.Node) -> bool:
    return softmax.args[1] in (-1, softmax.meta["val"].dim() - 1)


def _name(node: fx.Node) -> str:
    return node.target.overloadpacket.__name__ if is_operator(node.target) else ""
