"""A captured training step: its graphs, and how they are connected.

Storage keys connect graphs: what one graph makes and another reads has the same key in both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import torch

from autockpt.capture.compiled import CompiledForward
from autockpt.capture.joint import JointGraph, JointNode, summed_storages
from autockpt.devices.device import ALLOCATION_BYTES, Device
from autockpt.loop import Loop

Keys = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class CapturedGraph:
    """One graph of the step and what passed in and out of it.

    Storage keys name the same storage across graphs: inputs, forward outputs, incoming gradients
    (``tangent_keys``) and outgoing ones (``grad_keys``), each aligned with the joint graph.
    Graphs of one ``frame`` are pieces of what Dynamo gave as one graph. ``outside_ops`` are
    positions of ops that code outside of the model runs.
    """

    joint: JointGraph
    has_backward: bool
    is_outside: bool
    frame: int
    input_keys: Keys
    output_keys: Keys
    tangent_keys: Keys
    grad_keys: Keys
    outside_ops: frozenset[int] = frozenset()

    def has_outside(self, op: int) -> bool:
        """Whether code outside of the model runs an op of the joint graph."""
        return self.is_outside or op in self.outside_ops


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Capture:
    """A captured training step.

    Attributes:
        graphs: In forward order.
        device: The device of the model's parameters.
        target: The device that the step is planned for, if that is another one; it is not here.
        is_fake: Whether model or inputs hold no data, so that nothing can be measured.
        parameters_bytes: Bytes of distinct parameter storages.
        buffers_bytes: Bytes of distinct buffer storages.
        inputs_bytes: Bytes of distinct input storages.
        gradient_bytes: Bytes of the gradients of all parameters that require one.
        parameter_keys: Storages of the parameters.
        gradient_order: Keys of parameters, in the order in which eager autograd completes their
            gradients.
        output_leaf_keys: Storages of what the step returns to its caller, by leaf.
        loss_keys: Storages of what the backward starts from.
        eager_peak_bytes: Peak of the same step in eager PyTorch, operator workspace not counted,
            above ``parameters + buffers + inputs``.
        foreign_ops: Autograd nodes of the step that belong to no captured graph.
        module_names: Qualified names of the model's submodules.
        positions_are_counted: See :class:`autockpt.capture.packed_sequences.PackedSequences`.
        output_types: Which leaves of the output have the type of which leaf of the inputs, if some
            inputs are of a subclass of `torch.Tensor` in name only.
        split: Where Dynamo first split the forward, and why; empty if it did not.
        compiled: The forward that was traced, if it can also run; None if it was traced on fakes.
    """

    graphs: tuple[CapturedGraph, ...]
    device: torch.device
    target: Device | None
    is_fake: bool
    parameters_bytes: int
    buffers_bytes: int
    inputs_bytes: int
    gradient_bytes: int
    parameter_keys: frozenset[int]
    gradient_order: tuple[int, ...]
    output_leaf_keys: Keys
    loss_keys: frozenset[int]
    eager_peak_bytes: int
    foreign_ops: tuple[str, ...]
    module_names: frozenset[str]
    positions_are_counted: bool
    compiled: CompiledForward | None
    split: str
    output_types: tuple[tuple[int, int], ...] | None

    @property
    def unit_bytes(self) -> int:
        """What the size of an allocation is a multiple of."""
        return ALLOCATION_BYTES if self.runs_on.type == "cuda" else 1

    @property
    def runs_on(self) -> torch.device:
        """The kind of device that the planned step runs on."""
        if self.target is None:
            return self.device
        return torch.device("cuda" if self.target.is_accelerator else "cpu")

    @property
    def held_keys(self) -> frozenset[int]:
        """Storages of what the step returns to its caller, and of the loss."""
        return self.loss_keys.union(*self.output_leaf_keys)

    def freed_keys(self, loop: Loop) -> frozenset[int]:
        """Storages that the caller frees before the backward begins."""
        freed: set[int] = set()
        kept: set[int] = set()
        for at, keys in enumerate(self.output_leaf_keys):
            (freed if loop.frees(at) else kept).update(keys)
        return frozenset(freed - kept)

    @property
    def saved_outside_keys(self) -> frozenset[int]:
        """Storages that code outside of the model saves for its own backward."""
        outside = [graph for graph in self.graphs if graph.is_outside]
        return frozenset(key for graph in outside for key in _read_in_backward(graph))


def _read_in_backward(graph: CapturedGraph) -> Iterator[int]:
    """Keys of the inputs that a graph's backward reads."""
    read = {
        storage
        for op in graph.joint.ops
        if op.is_backward
        for parent in op.node.all_input_nodes
        for storage in graph.joint.node_storages[parent]
    }
    yield from (key for storage, key in _inputs(graph) if storage in read)


def overwritten_keys(graphs: Iterable[CapturedGraph]) -> frozenset[int]:
    """Keys of inputs that one of the graphs overwrites."""
    return frozenset(
        key
        for graph in graphs
        for storage, key in _inputs(graph)
        if storage in graph.joint.mutated_storages
    )


def reads_any(graph: CapturedGraph, op: JointNode, keys: frozenset[int]) -> bool:
    """Whether an op of the graph reads an input of one of these keys."""
    if not keys:
        return False
    read = {s for parent in op.node.all_input_nodes for s in graph.joint.node_storages[parent]}
    return any(key in keys for storage, key in _inputs(graph) if storage in read)


def kept_outputs(captured: Capture, region: int, freed_keys: frozenset[int]) -> frozenset[int]:
    """Joint storages of a graph that are kept to the end of the step.

    They are what the caller gets and keeps, and what no later graph reads: that may be in an object
    that autockpt cannot look into, such as a cache, or have become an attribute of a module.
    """
    graph = captured.graphs[region]
    taken_up = {key for later in captured.graphs[region + 1 :] for _, key in _inputs(later)}
    held = captured.held_keys - freed_keys
    return frozenset(
        storage
        for storages, keys in zip(
            graph.joint.forward_output_storages, graph.output_keys, strict=True
        )
        for storage, key in zip(storages, keys, strict=True)
        if key in held or (key not in taken_up and key not in freed_keys)
    )


def taken_up_by_later_frames(captured: Capture, region: int) -> set[int]:
    """Keys of what the graphs of later Python frames read."""
    frame = captured.graphs[region].frame
    later = (graph for graph in captured.graphs[region + 1 :] if graph.frame != frame)
    return {key for graph in later for keys in graph.input_keys for key in keys}


def gradients_wanted_before(captured: Capture, region: int) -> set[int]:
    """Keys of the gradients that earlier graphs read, which come later in the backward."""
    return {
        key for graph in captured.graphs[:region] for keys in graph.tangent_keys for key in keys
    }


def gradients_of_parameters(captured: Capture, region: int) -> list[tuple[int, int]]:
    """Keys of the parameters that a graph makes gradients for, with the gradients' storages."""
    graph = captured.graphs[region]
    if len(graph.grad_keys) != len(graph.input_keys):
        return []
    return [
        (keys[0], storage)
        for keys, storages in zip(
            graph.input_keys, graph.joint.backward_output_storages, strict=True
        )
        for storage in storages
        if len(keys) == 1 and keys[0] in captured.parameter_keys
    ]


def sums_out_of_order(captured: Capture, loop: Loop) -> bool:
    """Whether gradients add up in another order than eager's, which changes their last bits.

    Eager adds the gradient of each use to what has arrived for a tensor. A graph adds those of its
    own uses first, so nothing may have arrived before: from a later graph, or from a later call.
    """
    arrived: set[int] = set()
    for graph in reversed(captured.graphs):
        if not graph.has_backward:
            continue
        summed = summed_storages(graph.joint)
        if summed and loop.num_calls > 1 and not graph.is_outside:
            return True
        if any(storage in summed and key in arrived for storage, key in _inputs(graph)):
            return True
        if len(graph.grad_keys) == len(graph.input_keys):
            with_gradient = zip(graph.input_keys, graph.grad_keys, strict=True)
            arrived.update(key for keys, gradients in with_gradient for key in keys if gradients)
    return False


def first_users(captured: Capture) -> dict[int, int]:
    """By parameter key: the graph whose backward makes the last part of its gradient."""
    first: dict[int, int] = {}
    for region, graph in enumerate(captured.graphs):
        if graph.has_backward:
            for key, _ in gradients_of_parameters(captured, region):
                first.setdefault(key, region)
    return first


def _inputs(graph: CapturedGraph) -> Iterator[tuple[int, int]]:
    for storages, keys in zip(graph.joint.input_storages, graph.input_keys, strict=True):
        yield from zip(storages, keys, strict=True)
