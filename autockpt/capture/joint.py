"""A joint graph as the later stages read it: mended, classified, storages named.

AOTAutograd hands over one ``fx.Graph`` with forward and backward in one. :func:`analyze` mends what
must not be run as it is (gradients that never arrive, running statistics in BatchNorm's backward)
and says of each node whether it makes new storage (an *op*), is a view (an *alias*), acts on state
(an *effect*), and to which phase it belongs. The same input gives the same answer, so a plan made
from a graph on fake tensors names its ops by position and is valid for the graph on real ones.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.fx as fx

from autockpt.capture.autocast import share_casts
from autockpt.capture.fingerprint import fingerprint
from autockpt.capture.in_place import overwritten_storages
from autockpt.capture.nodes import (
    is_batch_norm,
    is_effect,
    is_random_op,
    may_run_again,
    tensors_of,
)
from autockpt.capture.tangents import drop_tangents, is_tangent
from autockpt.torch_private.fakes import fake_like
from autockpt.torch_private.operators import arguments_of, is_operator, is_written
from autockpt.torch_private.pytree import tree_leaves
from autockpt.torch_private.tensors import key_of_storage, storage_key

aten = torch.ops.aten

_BATCH_NORM_BACKWARD = {
    aten.native_batch_norm_backward.default: (3, 4),
    aten.cudnn_batch_norm_backward.default: (3, 4),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JointNode:
    """One node that makes storage or acts on state, with what it reads and makes by storage id.

    ``overwrites`` is the storage that its result may take the memory of.
    """

    node: fx.Node
    is_backward: bool
    is_effect: bool
    is_random: bool
    reads_mutated: bool
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    overwrites: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JointGraph:
    """A mended joint graph and its facts; storage ids are positions in ``storage_bytes``."""

    module: fx.GraphModule
    num_fwd_outputs: int
    static_indices: tuple[int, ...]
    absent_tangents: frozenset[int]
    ops: tuple[JointNode, ...]
    storage_bytes: tuple[int, ...]
    node_storages: dict[fx.Node, tuple[int, ...]]
    input_storages: tuple[tuple[int, ...], ...]
    tangent_storages: tuple[tuple[int, ...], ...]
    forward_output_storages: tuple[tuple[int, ...], ...]
    backward_output_storages: tuple[tuple[int, ...], ...]
    external_storages: frozenset[int]
    mutated_storages: frozenset[int]
    backward_nodes: frozenset[fx.Node]
    fingerprint: str


def analyze(
    module: fx.GraphModule,
    *,
    num_fwd_outputs: int,
    static_indices: tuple[int, ...],
    absent_tangents: frozenset[int],
) -> JointGraph:
    """Mend and classify a joint graph in place.

    Args:
        module: The joint graph of AOTAutograd; changed in place.
        num_fwd_outputs: How many of its outputs belong to the forward.
        static_indices: Primal inputs with a fixed address (parameters and buffers).
        absent_tangents: Positions of tangents for which no gradient arrives.
    """
    graph = module.graph
    _drop_running_stats(graph)
    drop_tangents(graph, absent_tangents)
    share_casts(graph, num_fwd_outputs=num_fwd_outputs)
    graph.eliminate_dead_code(is_impure_node=lambda node: is_effect(node) or is_random_op(node))
    _shield_mutated_inputs(graph, num_fwd_outputs)
    module.recompile()
    output_node = next(iter(graph.find_nodes(op="output")))
    outputs = list(output_node.args[0])

    storage_ids: dict[int, int] = {}
    storage_bytes: list[int] = []
    node_storages: dict[fx.Node, tuple[int, ...]] = {}
    of_backward = _of_backward(graph, num_fwd_outputs)
    external: set[int] = set()
    mutated: set[int] = set()
    primals: list[fx.Node] = []
    tangents: list[fx.Node] = []
    ops: list[JointNode] = []
    keep_alive: list[Any] = []  # ids below are addresses: no storage may be freed meanwhile
    effects = {node for node in graph.nodes if is_effect(node)}

    def storages_of(value: Any) -> tuple[list[int], list[int]]:
        every, new = [], []
        for tensor in tensors_of(value):
            storage = tensor.untyped_storage()
            keep_alive.append(storage)
            address = key_of_storage(storage)
            if address not in storage_ids:
                storage_ids[address] = len(storage_bytes)
                storage_bytes.append(storage.nbytes())
                new.append(storage_ids[address])
            every.append(storage_ids[address])
        return every, new

    for node in graph.nodes:
        if node.op == "output":
            continue
        every, new = storages_of(node.meta.get("val"))
        node_storages[node] = tuple(every)
        if node.op == "placeholder":
            (tangents if is_tangent(node) else primals).append(node)
            external.update(every)
        elif node.op == "get_attr":
            external.update(every)
        if node in effects:
            for parent in _mutated_arguments(node):
                mutated.update(node_storages[parent])

    made: set[int] = set(external)
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        new = [s for s in node_storages[node] if s not in made]
        if not new and node not in effects:
            continue
        made.update(new)
        reads = {s for parent in node.all_input_nodes for s in node_storages[parent]}
        ops.append(
            JointNode(
                node=node,
                is_backward=node in of_backward,
                is_effect=node in effects,
                is_random=is_random_op(node),
                reads_mutated=bool(reads & mutated),
                reads=tuple(sorted(reads - external - set(new))),
                writes=tuple(dict.fromkeys(new)),
            )
        )

    held = {s for node in output_node.all_input_nodes for s in node_storages[node]}
    overwritten = overwritten_storages(
        [(op.node, op.reads, op.writes) for op in ops if op.is_backward],
        node_storages,
        held | external | mutated | {s for op in ops if not op.is_backward for s in op.writes},
    )
    ops = [dataclasses.replace(op, overwrites=overwritten.get(op.node)) for op in ops]

    def of_outputs(part: list[Any]) -> tuple[tuple[int, ...], ...]:
        return tuple(node_storages[o] if isinstance(o, fx.Node) else () for o in part)

    return JointGraph(
        module=module,
        num_fwd_outputs=num_fwd_outputs,
        static_indices=static_indices,
        absent_tangents=absent_tangents,
        ops=tuple(ops),
        storage_bytes=tuple(storage_bytes),
        node_storages=node_storages,
        input_storages=tuple(node_storages[p] for p in primals),
        tangent_storages=tuple(node_storages[t] for t in tangents),
        forward_output_storages=of_outputs(outputs[:num_fwd_outputs]),
        backward_output_storages=of_outputs(outputs[num_fwd_outputs:]),
        external_storages=frozenset(external),
        mutated_storages=frozenset(mutated),
        backward_nodes=frozenset(of_backward),
        fingerprint=fingerprint(graph),
    )


def gives_the_same_again(op: JointNode) -> bool:
    """Whether an op may run again, its inputs included: none of them is overwritten meanwhile.

    BatchNorm runs again without the running statistics that it moves.
    """
    return may_run_again(op.node) and (not op.reads_mutated or is_batch_norm(op.node))


def _of_backward(graph: fx.Graph, num_fwd_outputs: int) -> set[fx.Node]:
    """Tangents, what depends on them, and what the backward draws by itself.

    It was traced after the forward: its draws stand behind all outputs of the forward.
    """
    outputs = next(iter(graph.find_nodes(op="output"))).args[0][:num_fwd_outputs]
    left = {node for node in outputs if isinstance(node, fx.Node) and node.op == "call_function"}
    found: set[fx.Node] = set()
    has_begun = False
    for node in graph.nodes:
        depends = any(parent in found for parent in node.all_input_nodes)
        # The forward's last draws may be for nobody, or for the backward; torch names them its own.
        is_forward = not node.users or node.meta.get("partitioner_tag") == "is_forward"
        is_behind = has_begun or (not left and not is_forward)
        if is_tangent(node) or depends or (is_behind and is_random_op(node)):
            found.add(node)
        has_begun = has_begun or depends
        left.discard(node)
    return found


def needed_by_forward(joint: JointGraph) -> set[fx.Node]:
    """Nodes that an output of the forward, or what it does to state, depends on."""
    output = next(iter(joint.module.graph.find_nodes(op="output")))
    found: set[fx.Node] = set()
    stack = [op.node for op in joint.ops if op.is_effect and not op.is_backward]
    stack += [o for o in output.args[0][: joint.num_fwd_outputs] if isinstance(o, fx.Node)]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.all_input_nodes)
    return found


def _shield_mutated_inputs(graph: fx.Graph, num_fwd_outputs: int) -> None:
    """Let the backward read a copy of an input that the graph itself overwrites.

    An eager kernel would have saved the old value; here the input is read when it has the new one.
    """
    placeholders = [n for n in graph.nodes if n.op == "placeholder" and not is_tangent(n)]
    inputs = set(placeholders)
    mutated = {
        argument
        for node in graph.nodes
        if node.op == "call_function"
        for argument in _mutated_arguments(node)
        if argument in inputs
    }
    if not mutated:
        return
    of_backward = _of_backward(graph, num_fwd_outputs)
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


def _reaches(node: fx.Node, of_backward: set[fx.Node]) -> bool:
    """Whether the backward reads the storage of an input, itself or through views."""
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


def _mutated_arguments(node: fx.Node) -> list[fx.Node]:
    if not is_operator(node.target):
        return []
    found: list[fx.Node] = []
    for position, argument in enumerate(arguments_of(node.target)):
        if is_written(argument):
            value = (
                node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            )
            found.extend(leaf for leaf in tree_leaves(value) if isinstance(leaf, fx.Node))
    return found


def _drop_running_stats(graph: fx.Graph) -> None:
    """BatchNorm's backward ignores its running statistics in training: do not save them."""
    for node in graph.nodes:
        positions = _BATCH_NORM_BACKWARD.get(node.target)
        if positions is None:
            continue
        if node.target is aten.native_batch_norm_backward.default and not node.args[7]:
            continue
        arguments = list(node.args)
        for position in positions:
            arguments[position] = None
        node.args = tuple(arguments)
