"""A joint graph as the later stages read it: mended, classified, with its storages named.

AOTAutograd returns one `fx.Graph` with forward and backward in one. :func:`analyze` mends it (see
:mod:`autockpt.capture.mending`) and classifies its nodes: an *op* makes new storage, a *view* does
not, an *effect* acts on state, and each belongs to the forward or to the backward. The same input
gives the same answer, so a plan that was made on fake tensors names ops by position and is valid
for the graph on real ones.
"""

from __future__ import annotations

import dataclasses
import operator

import torch
import torch.fx as fx

from autockpt.capture.fingerprint import constants, fingerprint
from autockpt.capture.in_place import overwritten_storages
from autockpt.capture.mending import mend
from autockpt.capture.nodes import is_batch_norm, is_effect, is_random_op, may_run_again
from autockpt.capture.phases import backward_nodes, with_ancestors
from autockpt.capture.storages import Storages, number_storages
from autockpt.capture.sums import summed_inputs
from autockpt.capture.tangents import is_tangent
from autockpt.torch_private.graphs import without_code


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
    constants: str


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
    mend(graph, num_fwd_outputs=num_fwd_outputs, absent_tangents=absent_tangents)
    module.recompile()
    storages = number_storages(graph)
    of_backward = backward_nodes(graph, num_fwd_outputs)
    output = next(iter(graph.find_nodes(op="output")))
    ops = _with_overwrites(_ops(graph, storages, of_backward), storages, output)
    placeholders = graph.find_nodes(op="placeholder")
    outputs = [storages.of_node[o] if isinstance(o, fx.Node) else () for o in output.args[0]]
    return JointGraph(
        module=module,
        num_fwd_outputs=num_fwd_outputs,
        static_indices=static_indices,
        absent_tangents=absent_tangents,
        ops=tuple(ops),
        storage_bytes=storages.size_bytes,
        node_storages=storages.of_node,
        input_storages=tuple(storages.of_node[p] for p in placeholders if not is_tangent(p)),
        tangent_storages=tuple(storages.of_node[p] for p in placeholders if is_tangent(p)),
        forward_output_storages=tuple(outputs[:num_fwd_outputs]),
        backward_output_storages=tuple(outputs[num_fwd_outputs:]),
        external_storages=storages.external,
        mutated_storages=storages.mutated,
        backward_nodes=of_backward,
        fingerprint=fingerprint(graph),
        constants=constants(graph),
    )


def _ops(graph: fx.Graph, storages: Storages, of_backward: frozenset[fx.Node]) -> list[JointNode]:
    """The nodes that make a storage or act on state; all others are views."""
    ops: list[JointNode] = []
    made = set(storages.external)
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        new = [s for s in storages.of_node[node] if s not in made]
        if not new and not is_effect(node):
            continue
        made.update(new)
        reads = storages.read_by(node)
        ops.append(
            JointNode(
                node=node,
                is_backward=node in of_backward,
                is_effect=is_effect(node),
                is_random=is_random_op(node),
                reads_mutated=bool(reads & storages.mutated),
                reads=tuple(sorted(reads - storages.external - set(new))),
                writes=tuple(dict.fromkeys(new)),
            )
        )
    return ops


def _with_overwrites(ops: list[JointNode], storages: Storages, output: fx.Node) -> list[JointNode]:
    """The ops, with the storage that each op of the backward may write its result over."""
    kept = storages.read_by(output) | storages.external | storages.mutated
    kept.update(s for op in ops if not op.is_backward for s in op.writes)
    overwritten = overwritten_storages(
        [(op.node, op.reads, op.writes) for op in ops if op.is_backward], storages.of_node, kept
    )
    return [dataclasses.replace(op, overwrites=overwritten.get(op.node)) for op in ops]


def copied(joint: JointGraph) -> JointGraph:
    """An equal joint graph of its own, to change: much quicker than to analyze one again."""
    graph = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    for node in joint.module.graph.nodes:
        new[node] = graph.node_copy(node, new.__getitem__)
        new[node].name = node.name
    return dataclasses.replace(
        joint,
        module=without_code(joint.module, graph),
        ops=tuple(dataclasses.replace(op, node=new[op.node]) for op in joint.ops),
        node_storages={new[node]: storages for node, storages in joint.node_storages.items()},
        backward_nodes=frozenset(map(new.__getitem__, joint.backward_nodes)),
    )


def gradients_as_views(joint: JointGraph) -> frozenset[int]:
    """Storages of the gradients that a graph returns as views, or with gaps or in another order."""
    makers = {op.node for op in joint.ops}
    output = next(iter(joint.module.graph.find_nodes(op="output")))
    found: set[int] = set()
    for gradient in output.args[0][joint.num_fwd_outputs :]:
        value = gradient.meta.get("val") if isinstance(gradient, fx.Node) else None
        if not isinstance(value, torch.Tensor):
            continue
        maker = gradient.args[0] if gradient.target is operator.getitem else gradient
        if maker not in makers or not value.is_contiguous():
            found.update(joint.node_storages[gradient])
    return frozenset(found)


def summed_storages(joint: JointGraph) -> frozenset[int]:
    """Storages of inputs whose gradient the backward adds up from several uses."""
    summed = summed_inputs(joint.module.graph, joint.num_fwd_outputs)
    return frozenset(storage for at in summed for storage in joint.input_storages[at])


def gives_the_same_again(op: JointNode, *, on_accelerator: bool = False) -> bool:
    """Whether an op may run again, and none of its inputs is overwritten meanwhile.

    BatchNorm runs again without updating its running statistics. For ``on_accelerator`` see
    `may_run_again`.
    """
    again = may_run_again(op.node, on_accelerator=on_accelerator)
    return again and (not op.reads_mutated or is_batch_norm(op.node))


def needed_by_forward(joint: JointGraph) -> set[fx.Node]:
    """Nodes that an output of the forward or an effect of it depends on."""
    output = next(iter(joint.module.graph.find_nodes(op="output")))
    effects = [op.node for op in joint.ops if op.is_effect and not op.is_backward]
    outputs = [o for o in output.args[0][: joint.num_fwd_outputs] if isinstance(o, fx.Node)]
    return with_ancestors([*effects, *outputs])
