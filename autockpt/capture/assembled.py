"""Make a joint graph of the operators that a step was recorded with."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.fx as fx

from autockpt.capture.captured import CapturedGraph, Keys
from autockpt.capture.in_place import overwritten_storages
from autockpt.capture.joint import JointGraph, JointNode
from autockpt.capture.mending import without_running_statistics
from autockpt.capture.nodes import is_effect, is_random_op
from autockpt.capture.traced_step import TracedStep

# Of a tensor: the number of its storage, shape, strides, offset and type.
Layout = tuple[int, tuple[int, ...], tuple[int, ...], int, torch.dtype]


@dataclasses.dataclass(slots=True, eq=False)
class Operation:
    """An operator call: its node, and what it reads and makes."""

    node: fx.Node
    is_backward: bool
    is_outside: bool
    reads: tuple[int, ...]
    writes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assembly:
    """Makes a joint graph of what was recorded."""

    graph: fx.Graph
    operations: list[Operation]
    size_bytes: tuple[int, ...]
    inputs: list[tuple[fx.Node, int]]
    writers: dict[int, fx.Node]
    mutated: frozenset[int]

    def recorded(self, output_keys: Keys, loss_keys: Keys, grad_keys: Keys) -> TracedStep:
        """The step, in the form that tracing gives.

        Args:
            output_keys: Storages of what the forward returns, by leaf.
            loss_keys: Storages of what the backward starts from.
            grad_keys: Storages of the gradients, by input.
        """
        forward = [keys for keys in (*output_keys, *loss_keys) if keys]
        of_outputs = [self.writers[key] for keys in forward for key in keys]
        of_gradients = [self.writers[keys[0]] if keys else None for keys in grad_keys]
        self.graph.output([*of_outputs, *of_gradients])
        kept = {key for keys in (*forward, *grad_keys) for key in keys}
        alive = self._alive(kept)
        _add_shadows(self.graph)
        external = frozenset(storage for _, storage in self.inputs)
        node_storages: dict[fx.Node, tuple[int, ...]] = {
            node: _storages_in(node.meta["layouts"])
            for node in self.graph.nodes
            if node.op != "output"
        }
        backward = [op for op in alive if op.is_backward]
        held = kept | external | self.mutated
        held.update(s for op in alive if not op.is_backward for s in op.writes)
        overwritten = overwritten_storages(
            [(op.node, _internal(op.reads, external), op.writes) for op in backward],
            node_storages,
            held,
        )
        joint = JointGraph(
            module=fx.GraphModule(torch.nn.Module(), self.graph),
            num_fwd_outputs=len(of_outputs),
            static_indices=(),
            absent_tangents=frozenset(),
            ops=tuple(
                JointNode(
                    node=op.node,
                    is_backward=op.is_backward,
                    is_effect=is_effect(op.node),
                    is_random=is_random_op(op.node),
                    reads_mutated=bool(self.mutated & set(op.reads)),
                    reads=_internal(op.reads, external),
                    writes=op.writes,
                    overwrites=overwritten.get(op.node),
                )
                for op in alive
            ),
            storage_bytes=self.size_bytes,
            node_storages=node_storages,
            input_storages=tuple((storage,) for _, storage in self.inputs),
            tangent_storages=(),
            forward_output_storages=tuple((key,) for keys in forward for key in keys),
            backward_output_storages=grad_keys,
            external_storages=external,
            mutated_storages=self.mutated,
            backward_nodes=frozenset(op.node for op in backward),
            fingerprint="",
            constants="",
        )
        graph = CapturedGraph(
            joint=joint,
            has_backward=True,
            is_outside=False,
            frame=0,
            input_keys=joint.input_storages,
            output_keys=joint.forward_output_storages,
            tangent_keys=(),
            # A gradient is another storage than its parameter.
            grad_keys=tuple(tuple(-1 - key for key in keys) for keys in grad_keys),
            outside_ops=frozenset(at for at, op in enumerate(alive) if op.is_outside),
        )
        return TracedStep(
            graphs=(graph,),
            output_leaf_keys=output_keys,
            loss_keys=frozenset(key for keys in loss_keys for key in keys),
            foreign_ops=(),
            compiled=None,
            split="",
        )

    def _alive(self, kept: set[int]) -> list[Operation]:
        """The operations that something depends on."""
        needed = set(kept)
        alive: list[Operation] = []
        for op in reversed(self.operations):
            op.node.args = without_running_statistics(op.node)
            if not (needed.intersection(op.writes) or is_effect(op.node) or is_random_op(op.node)):
                continue
            needed.update(op.reads)
            alive.append(op)
        return alive[::-1]


def _internal(storages: tuple[int, ...], external: frozenset[int]) -> tuple[int, ...]:
    return tuple(sorted(storage for storage in storages if storage not in external))


def _is_layout(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 5 and isinstance(value[4], torch.dtype)


def _storages_in(layouts: Any) -> tuple[int, ...]:
    if _is_layout(layouts):
        return (layouts[0],)
    if isinstance(layouts, (tuple, list)):
        return tuple(storage for item in layouts for storage in _storages_in(item))
    return ()


def _add_shadows(graph: fx.Graph) -> None:
    """Give each node a value without data: what later stages ask are shapes and strides."""
    made: dict[Any, torch.Tensor] = {}

    def shadow(layouts: Any) -> Any:
        if _is_layout(layouts):
            _, shape, strides, _, dtype = layouts
            key = shape, strides, dtype
            if key not in made:
                made[key] = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
            return made[key]
        if isinstance(layouts, (tuple, list)):
            return tuple(shadow(item) for item in layouts)
        return layouts

    for node in graph.nodes:
        if "layouts" in node.meta:
            node.meta["val"] = shadow(node.meta["layouts"])
