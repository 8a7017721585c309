"""Inputs whose gradient the backward of a graph adds up from several uses.

Gradients from another graph must not arrive before: the sum would round differently than eager's.
"""

from __future__ import annotations

from typing import Any

import torch.fx as fx

from autockpt.capture.phases import backward_nodes
from autockpt.capture.tangents import is_tangent
from autockpt.torch_private.operators import aten
from autockpt.torch_private.pytree import tree_leaves


def summed_inputs(joint: fx.Graph, num_fwd_outputs: int) -> frozenset[int]:
    """Positions of inputs whose gradient the backward of a graph adds up from several uses.

    The joint graph tells, not Dynamo's: an operation such as ``F.normalize`` uses its input twice
    inside. If the gradient alone is a sum, it has passed through an addition as it is.

    Args:
        joint: The joint graph.
        num_fwd_outputs: How many of its outputs belong to the forward.
    """
    output = next(iter(joint.find_nodes(op="output")))
    gradients = output.args[0][num_fwd_outputs:]
    sums = {at for at, node in enumerate(gradients) if _is_sum(node)}
    if not sums:
        return frozenset()
    of_backward = backward_nodes(joint, num_fwd_outputs)
    inputs = [node for node in joint.find_nodes(op="placeholder") if not is_tangent(node)]

    def num_forward_uses(node: fx.Node) -> int:
        # A backward may read an input without a gradient, such as a weight that it transposes.
        users = [
            user
            for user in node.users
            if user.op != "output"
            and user not in of_backward
            and user.meta.get("partitioner_tag") != "is_backward"
        ]
        leaves = [leaf for user in users for leaf in tree_leaves((user.args, user.kwargs))]
        return sum(leaf is node for leaf in leaves)

    return frozenset(at for at in sums if num_forward_uses(inputs[at]) > 1)


def _is_sum(node: Any) -> bool:
    if not isinstance(node, fx.Node) or node.target is not aten.add.Tensor:
        return False
    return all(isinstance(part, fx.Node) for part in node.args)
