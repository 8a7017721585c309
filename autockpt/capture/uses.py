"""Gradients of a tensor that a graph uses twice, added up in eager's order.

Eager autograd adds the gradient of each use to what has arrived for a tensor, the last use first.
A compiled backward would return the sum of its two uses. If a gradient from another graph has
arrived before, because the model was called twice before the backward, that sum rounds differently.
So each of the two uses becomes an input of its own, and autograd adds what they return.

A tensor with more uses stays one input: eager adds each gradient as soon as it arrives, but a
graph's inputs would all be in memory at its end. Gradients from another graph must not arrive
before those of such a tensor: :mod:`autockpt.capture.sums` finds them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx

from autockpt.torch_private.autograd import num_gradients
from autockpt.torch_private.graphs import add_input, copied_for_aot, is_autocast_on
from autockpt.torch_private.pytree import tree_leaves


def with_uses_apart(
    graph_module: fx.GraphModule, example_inputs: list[Any]
) -> tuple[fx.GraphModule, list[Any], Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """Give tensors that a graph uses twice an input for each use.

    Args:
        graph_module: A graph of Dynamo's; it does not change.
        example_inputs: One for every placeholder.

    Returns:
        The graph, example inputs for it, and a function that lets a callable of this graph take the
        inputs of the original one.
    """
    inputs = graph_module.graph.find_nodes(op="placeholder")
    doubled = [at for at, node in enumerate(inputs) if _is_used_twice(node)]
    if is_autocast_on(graph_module.graph):
        # Autocast casts a parameter once for both uses, and their gradients add up before the cast.
        doubled = []
    if not doubled:
        return graph_module, example_inputs, lambda call: call
    apart = copied_for_aot(graph_module)
    own = list(apart.graph.find_nodes(op="placeholder"))
    last = own[-1]
    for at in doubled:
        _, second = differentiable_users(own[at])
        last = add_input(apart.graph, f"{own[at].name}_second_use", like=own[at], after=last)
        second.replace_input_with(own[at], last)
    apart.recompile()
    examples = [*example_inputs, *(_example(inputs[at]) for at in doubled)]

    def around(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            # The youngest nodes run first, so the gradient of the second use arrives first.
            given = list(args)
            for at in doubled:
                given[at] = _view(args[at])
            return call(*given, *(_view(args[at]) for at in doubled))

        return run

    return apart, examples, around


def times_given(user: fx.Node, node: fx.Node) -> int:
    """How often a node of a graph is an argument of another."""
    return sum(leaf is node for leaf in tree_leaves((user.args, user.kwargs)))


def num_gradients_through(user: fx.Node, node: fx.Node) -> int:
    """How many gradients come back to a value through one node of Dynamo's graph.

    An operation such as ``torch.gru_cell`` or ``F.normalize`` uses its input twice inside. So it
    runs on the graph's fake tensors, and autograd's graph tells. If it does not run alone, that is
    not known, and counts as two.
    """
    num_given = times_given(user, node)
    example = node.meta.get("example_value")
    if user.op not in ("call_function", "call_method") or not isinstance(example, torch.Tensor):
        return num_given
    used = example.detach().requires_grad_()

    def given(argument: fx.Node) -> Any:
        value = argument.meta.get("example_value")
        if not isinstance(value, torch.Tensor):
            return value
        return used if argument is node else value.detach().requires_grad_(value.requires_grad)

    args, kwargs = fx.map_arg((user.args, user.kwargs), given)
    try:
        # Under autocast a cast would come first, and hide how often its result is used.
        with torch.enable_grad(), torch.autocast(used.device.type, enabled=False):
            if user.op == "call_method":
                output = getattr(args[0], str(user.target))(*args[1:], **kwargs)
            else:
                output = user.target(*args, **kwargs)  # type: ignore[operator]
    except Exception:  # noqa: BLE001 - an operation that does not run alone
        return max(num_given, 2)
    return max(num_given, num_gradients(output, used))


def differentiable_users(node: fx.Node) -> list[fx.Node]:
    """The nodes through which gradients come back to a value, in the order in which they run."""
    users = [user for user in node.graph.nodes if user in node.users and _takes_gradient(user)]
    return [user for user in users if user.op != "output"]


def _is_used_twice(node: fx.Node) -> bool:
    example = node.meta.get("example_value")
    if not isinstance(example, torch.Tensor) or not example.requires_grad:
        return False
    if len(node.users) < 2 or any(_may_write(user) for user in node.users):
        return False
    users = differentiable_users(node)
    return len(users) == 2 and all(num_gradients_through(user, node) == 1 for user in users)


def _takes_gradient(node: fx.Node) -> bool:
    values = tree_leaves(node.meta.get("example_value"))
    return any(isinstance(value, torch.Tensor) and value.requires_grad for value in values)


def _may_write(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or node.target is operator.setitem or node.kwargs.get("out") is not None


def _view(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view_as(tensor)


def _example(node: fx.Node) -> torch.Tensor:
    # Of a real tensor that Dynamo does not know, AOTAutograd would leave the sizes open.
    example: torch.Tensor = node.meta["example_value"].detach()
    return example.requires_grad_()
