"""Change what must not run as it was traced in a joint graph.

Gradients that never arrive are taken out, BatchNorm's backward does not save running statistics,
and the backward reads inputs that the graph overwrites as they were before.
"""

from __future__ import annotations

from typing import Any

import torch.fx as fx

from autockpt.capture.autocast import share_casts
from autockpt.capture.nodes import (
    is_batch_norm,
    is_effect,
    is_random_op,
    tensors_of,
    written_arguments,
)
from autockpt.capture.phases import backward_nodes
from autockpt.capture.tangents import drop_tangents, is_tangent
from autockpt.torch_private.fakes import fake_like
from autockpt.torch_private.operators import aten
from autockpt.torch_private.tensors import storage_key

# Positions of the running statistics among the arguments.
_BATCH_NORM_BACKWARD = {
    aten.native_batch_norm_backward.default: (3, 4),
    aten.cudnn_batch_norm_backward.default: (3, 4),
}


def mend(graph: fx.Graph, *, num_fwd_outputs: int, absent_tangents: frozenset[int]) -> None:
    """Mend a joint graph in place.

    Args:
        graph: The joint graph of AOTAutograd.
        num_fwd_outputs: How many of its outputs belong to the forward.
        absent_tangents: Positions of tangents for which no gradient arrives.
    """
    _drop_running_stats(graph)
    drop_tangents(graph, absent_tangents)
    share_casts(graph, num_fwd_outputs=num_fwd_outputs)
    graph.eliminate_dead_code(is_impure_node=lambda node: is_effect(node) or is_random_op(node))
    _shield_mutated_inputs(graph, num_fwd_outputs)


def _drop_running_stats(graph: fx.Graph) -> None:
    """Let BatchNorm's backward save no running statistics: in training it does not use them."""
    for node in graph.nodes:
        node.args = without_running_statistics(node)


def without_running_statistics(node: fx.Node) -> tuple[Any, ...]:
    """The arguments of a node; of BatchNorm's backward in training, without those statistics."""
    target: Any = node.target
    positions = _BATCH_NORM_BACKWARD.get(target, ())
    if node.target is aten.native_batch_norm_backward.default and not node.args[7]:
        return node.args
    return tuple(None if at in positions else argument for at, argument in enumerate(node.args))


def _shield_mutated_inputs(graph: fx.Graph, num_fwd_outputs: int) -> None:
    """Let the backward read a copy of an input that the graph itself overwrites.

    An eager kernel would have saved the old value; here the backward reads the input when it has
    the new one.
    """
    placeholders = [n for n in graph.nodes if n.op == "placeholder" and not is_tangent(n)]
    inputs = set(placeholders)
    mutated = {
        argument
        for node in graph.nodes
        if node.op == "call_function"
        for argument in written_arguments(node)
        if argument in inputs
    }
    if not mutated:
        return
    of_backward = backward_nodes(graph, num_fwd_outputs)
    for node in placeholders:
        if node not in mutated or not _reaches(node, of_backward):
            continue
        with graph.inserting_after(placeholders[-1]):
            copy = graph.call_function(aten.clone.default, (node,))
        copy.meta["val"] = fake_like(node.meta["val"])
        node.replace_all_uses_with(
            copy,
            delete_user_cb=lambda user, kept=copy: (
                user is not kept and not is_effect(user) and not is_batch_norm(user)
            ),
        )


def _reaches(node: fx.Node, of_backward: frozenset[fx.Node]) -> bool:
    """Whether the backward reads the storage of an input, directly or through views."""
    storages = {storage_key(t) for t in tensors_of(node.meta["val"])}
    for user in node.users:
        if user.op == "output" or is_effect(user):
            continue
        if user in of_backward:
            return True
        views = {storage_key(t) for t in tensors_of(user.meta.get("val"))}
        if views & storages and _reaches(user, of_backward):
            return True
    return False
