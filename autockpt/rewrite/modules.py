"""Turn a schedule into the forward and the backward ``fx.GraphModule`` that run.

The joint graph is put into the schedule's order: forward nodes first, then the backward, with a
clone of a forward node for every time that the schedule recomputes it, in either of them. Views
cost nothing and are made again from whatever instance of their base is live. The forward saves what
the backward reads and does not compute itself. Every value is freed after its last use, as in the
schedule.
"""

from __future__ import annotations

import operator
import re
from typing import Any

import torch.fx as fx

from autockpt.capture.in_place import write_over_first
from autockpt.capture.joint import JointGraph
from autockpt.capture.nodes import (
    batch_norm_again,
    is_batch_norm,
    is_effect,
    is_random_op,
    tensors_of,
)
from autockpt.capture.tangents import is_tangent
from autockpt.lower.orders import RegionOrder
from autockpt.torch_private.aot import extract_forward_backward, tag_backward
from autockpt.torch_private.generators import fake_rng_state, rng_state, run_with_rng_state

_AGAIN = re.compile(r"_again\d+$")


def rewrite(joint: JointGraph, order: RegionOrder) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Make the forward and backward modules that follow an order; ``joint`` is used up."""
    return _Rewriter(joint, order).run()


def rng_state_name(node: fx.Node) -> str:
    """Name of the node that holds the generator's state from before a random node."""
    return f"{node.name}_rng_state"


def _source_name(name: str) -> str:
    """Name of the node that a saved value is an instance of."""
    return _AGAIN.sub("", name)


class _Rewriter:
    """Puts a joint graph's nodes into an order and clones what is recomputed."""

    def __init__(self, joint: JointGraph, order: RegionOrder) -> None:
        self._joint = joint
        self._order = order
        self._graph = joint.module.graph
        self._output = next(iter(self._graph.find_nodes(op="output")))
        self._op_nodes = {op.node for op in joint.ops}
        # The newest instance of an op's node that is recomputed, and views of instances.
        self._instances: dict[fx.Node, fx.Node] = {}
        self._views: dict[tuple[fx.Node, ...], fx.Node] = {}
        self._saved: dict[fx.Node, None] = {}
        self._rng_states: dict[fx.Node, fx.Node] = {}
        # What every instance except the first is an instance of.
        self._sources: dict[fx.Node, fx.Node] = {}
        self._placed: set[fx.Node] = set()
        self._of_backward: set[fx.Node] = set()
        self._num_clones = 0
        self._in_forward = True

    def run(self) -> tuple[fx.GraphModule, fx.GraphModule]:
        joint = self._joint
        for index in self._order.forward:
            if joint.ops[index].node in self._placed:
                self._place_clone(joint.ops[index].node)
            else:
                self._place_forward(index)
        self._place_outputs(0, joint.num_fwd_outputs)
        self._in_forward = False
        # The forward saves bases and parts of results; the backward makes views again.
        self._views = {k: v for k, v in self._views.items() if k[0].target is operator.getitem}
        for index in self._order.backward:
            op = joint.ops[index]
            if op.is_backward:
                self._place_backward(op.node)
                if op.overwrites is not None:
                    write_over_first(op.node)
            else:
                self._place_clone(op.node)
        self._place_outputs(joint.num_fwd_outputs, len(self._output.args[0]))
        self._drop_unused()
        self._graph.lint()
        forward, backward = extract_forward_backward(
            joint.module,
            list(self._saved),
            num_fwd_outputs=joint.num_fwd_outputs,
            static_indices=joint.static_indices,
        )
        return forward, backward

    def _drop_unused(self) -> None:
        """Erase originals that only clones replace; they are still at their first place."""
        kept = {self._joint.ops[index].node for index in self._order.forward}
        for node in reversed(list(self._graph.nodes)):
            unused = node.op == "call_function" and not node.users and not is_effect(node)
            if unused and not (node in kept and is_random_op(node)):
                self._graph.erase_node(node)

    def _place(self, node: fx.Node) -> None:
        """Move a node, and the views that it reads, to the end of what is placed so far."""
        if node in self._placed or node.op != "call_function":
            return
        for parent in node.all_input_nodes:
            if parent not in self._op_nodes:
                self._place(parent)
        self._placed.add(node)
        self._output.prepend(node)

    def _place_forward(self, index: int) -> None:
        node = self._joint.ops[index].node
        for parent in node.all_input_nodes:
            instance = self._resolve(parent)
            if instance is not parent:
                node.replace_input_with(parent, instance)
        if index in self._order.replayed and self._joint.ops[index].is_random:
            with self._graph.inserting_before(self._output):
                state = self._graph.call_function(rng_state, node.args, node.kwargs)
            state.name = rng_state_name(node)
            state.meta["val"] = fake_rng_state(tensors_of(node.meta["val"])[0])
            self._rng_states[node] = state
        self._place(node)
        self._place_items(node, node)

    def _place_items(self, node: fx.Node, instance: fx.Node) -> None:
        """Unpack a result right after it is made, so that its parts are freed one by one."""
        for user in list(node.users):
            if user.target is operator.getitem and user in self._joint.node_storages:
                if instance is node:
                    self._place(user)
                else:
                    self._view_of(user, (instance,))

    def _place_backward(self, node: fx.Node) -> None:
        wanted = {parent: self._resolve(parent) for parent in node.all_input_nodes}
        self._output.prepend(node)
        self._placed.add(node)
        for parent, instance in wanted.items():
            if parent is not instance:
                node.replace_input_with(parent, instance)
        for user in list(node.users):
            if user.target is operator.getitem and user not in self._op_nodes:
                self._place(user)

    def _place_clone(self, node: fx.Node) -> None:
        parents = node.all_input_nodes
        if is_batch_norm(node):
            parents = [a for a in batch_norm_again(node)[1] if isinstance(a, fx.Node)]
        wanted = {parent: self._resolve(parent) for parent in parents}
        with self._graph.inserting_before(self._output):
            if is_batch_norm(node):
                target, arguments = batch_norm_again(node)
                clone = self._graph.call_function(
                    target, fx.node.map_arg(arguments, wanted.__getitem__)
                )
                clone.meta = dict(node.meta)
            elif node in self._rng_states:
                state = self._kept(self._rng_states[node])
                args = fx.node.map_arg(node.args, wanted.__getitem__)
                kwargs = fx.node.map_arg(node.kwargs, wanted.__getitem__)
                operator_again: Any = node.target
                clone = self._graph.call_function(
                    run_with_rng_state, (state, operator_again, *args), kwargs
                )
                clone.meta = dict(node.meta)
            else:
                clone = self._graph.node_copy(node, wanted.__getitem__)
                clone.meta = dict(node.meta)
        self._tag(clone, node)
        self._instances[node] = clone
        self._place_items(node, clone)

    def _resolve(self, node: fx.Node) -> fx.Node:
        """The instance of a value that is read at this point."""
        node = self._sources.get(node, node)
        if node.op == "placeholder":
            return node if is_tangent(node) else self._kept(node)
        if node.op == "get_attr":
            return node
        if node in self._joint.backward_nodes:
            if node not in self._op_nodes:
                self._place_backward_alias(node)
            return node
        if node in self._op_nodes:
            return self._kept(self._instances.get(node, node))
        if node.target is operator.getitem:
            source = node.args[0]
            assert isinstance(source, fx.Node)
            if source in self._op_nodes:
                instance = self._instances.get(source)
                if instance is None:
                    return self._kept(node)
                return self._kept(self._view_of(node, (instance,)))
        instances = tuple(self._resolve(parent) for parent in node.all_input_nodes)
        if self._in_forward and instances == tuple(node.all_input_nodes):
            self._place(node)
            return node
        return self._view_of(node, instances)

    def _place_backward_alias(self, node: fx.Node) -> None:
        if node in self._placed:
            return
        wanted = {parent: self._resolve(parent) for parent in node.all_input_nodes}
        self._placed.add(node)
        self._output.prepend(node)
        for parent, instance in wanted.items():
            if parent is not instance:
                node.replace_input_with(parent, instance)

    def _view_of(self, node: fx.Node, instances: tuple[fx.Node, ...]) -> fx.Node:
        key = (node, *instances)
        if key not in self._views:
            wanted = dict(zip(node.all_input_nodes, instances, strict=True))
            with self._graph.inserting_before(self._output):
                view = self._graph.node_copy(node, wanted.__getitem__)
            view.meta = dict(node.meta)
            self._tag(view, node)
            self._views[key] = view
        return self._views[key]

    def _kept(self, instance: fx.Node) -> fx.Node:
        """The instance; the forward saves it if the backward reads it."""
        if not self._in_forward and instance not in self._of_backward:
            is_there = instance.op == "placeholder" or instance.target is rng_state
            assert is_there or instance in self._placed
            self._saved.setdefault(instance)
        return instance

    def _tag(self, clone: fx.Node, node: fx.Node) -> None:
        self._num_clones += 1
        clone.name = f"{node.name}_again{self._num_clones}"
        self._placed.add(clone)
        self._sources[clone] = node
        if not self._in_forward:
            self._of_backward.add(clone)
            tag_backward(clone)

    def _place_outputs(self, start: int, stop: int) -> None:
        """Place views among the outputs, and outputs that were recomputed."""
        outputs: list[Any] = list(self._output.args[0])
        for position in range(start, stop):
            if isinstance(outputs[position], fx.Node):
                outputs[position] = self._resolve(outputs[position])
        self._output.args = (tuple(outputs),)
