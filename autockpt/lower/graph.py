"""From captured graphs to the engine's torch-free graph, and the way back.

This is the one place that speaks both languages. Views are folded into the storages they look at,
everything that stands through the whole step becomes fixed bytes, and what the engine must know
about torch (what may run twice, who holds what) becomes plain facts of an op.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch.fx as fx

from autockpt.capture.captured import (
    Capture,
    first_users,
    gradients_of_parameters,
    gradients_wanted_before,
    kept_outputs,
    overwritten_keys,
    reads_any,
    taken_up_by_later_frames,
)
from autockpt.capture.joint import JointNode, gives_the_same_again, needed_by_forward
from autockpt.capture.nodes import activation_writes, is_batch_norm, may_move
from autockpt.profile.cache import NodeCost
from autockpt.profile.optimizer import OptimizerMemory
from autockpt.torch_private.generators import rng_state_bytes
from autockpt_solvers import ComputeGraph, Op, Storage

OpKind = Literal["node", "rng_state", "tangents", "hold", "accumulation", "optimizer"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an engine op comes from: a node of a captured graph, or what stands around them.

    ``rng_state`` reads the generator before a random node, ``tangents`` are gradients from code
    outside, ``hold`` keeps what Python frames hold, ``accumulation`` adds gradients that are whole
    to those that stand already, ``optimizer`` is the optimizer's step.
    """

    kind: OpKind
    region: int
    joint_op: int = -1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """The engine's graph with the origin of each of its ops."""

    graph: ComputeGraph
    origins: tuple[Origin, ...]
    fixed_bytes: int


def lower(
    capture: Capture,
    costs: dict[fx.Node, NodeCost],
    optimizer: OptimizerMemory,
    *,
    accumulates: bool,
) -> Lowered:
    """The compute graph of a whole training step.

    Args:
        capture: The captured step; all of its graphs go into one compute graph.
        costs: Cost of every op node.
        optimizer: What the optimizer holds, and needs while it steps.
        accumulates: Whether parameters have gradients already, to which this step's are added.
    """
    builder = _Builder(capture, costs, accumulates=accumulates)
    for region in range(len(capture.graphs)):
        builder.add_forward(region)
    builder.add_hold()
    for region in reversed(range(len(capture.graphs))):
        if capture.graphs[region].has_backward:
            builder.add_backward(region)
    builder.add_optimizer(optimizer.step_bytes)
    return Lowered(
        graph=builder.finish(),
        origins=tuple(builder.origins),
        fixed_bytes=(
            capture.parameters_bytes
            + capture.buffers_bytes
            + capture.inputs_bytes
            + optimizer.state_bytes
        ),
    )


def module_of(node: fx.Node, module_names: frozenset[str]) -> str:
    """Path of the module whose forward the node belongs to, "" for the outermost."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    for path, _ in reversed(list(stack.values())):
        parts = (
            str(path).replace("._modules['", ".").replace("']", "").replace("['", ".").split(".")
        )
        # In front of the path stands Dynamo's name for what was compiled.
        for start in range(len(parts)):
            name = ".".join(parts[start:])
            if name in module_names:
                return name
    return ""


class _Builder:
    """Collects ops and storages region by region."""

    def __init__(
        self, capture: Capture, costs: dict[fx.Node, NodeCost], *, accumulates: bool
    ) -> None:
        self._capture = capture
        self._costs = costs
        self._accumulates = accumulates
        self._ops: list[Op] = []
        self._storages: list[Storage] = []
        self._outputs: dict[int, None] = {}
        self._writers: dict[int, int] = {}
        # Engine storage by (region, storage of its joint graph), and by key across graphs.
        self._local: dict[tuple[int, int], int] = {}
        self._by_key: dict[int, int] = {}
        self._grad_by_key: dict[int, int] = {}
        self._passed_on: dict[int, None] = {}
        self._formulas: dict[tuple[int, int | None], list[int]] = {}
        # Engine storages of a parameter's gradient, one for each graph that uses the parameter.
        self._contributions: dict[int, list[int]] = {}
        self._first_users = first_users(capture)
        self._overwritten_keys = overwritten_keys(capture.graphs)
        self._needed: set[fx.Node] = set()
        self.origins: list[Origin] = []

    def finish(self) -> ComputeGraph:
        return ComputeGraph(
            ops=tuple(self._ops), storages=tuple(self._storages), outputs=tuple(self._outputs)
        )

    def _storage(self, name: str, size_bytes: int) -> int:
        self._storages.append(Storage(name=name, size_bytes=size_bytes))
        return len(self._storages) - 1

    def _add(self, op: Op, origin: Origin) -> None:
        for storage in op.writes:
            self._writers[storage] = len(self._ops)
        self._ops.append(op)
        self.origins.append(origin)

    def _marker(self) -> int:
        """An empty output: whoever writes it runs exactly once, in its place."""
        marker = self._storage(f"marker{len(self._storages)}", 0)
        self._outputs[marker] = None
        return marker

    def add_forward(self, region: int) -> None:
        graph = self._capture.graphs[region]
        joint = graph.joint
        for local_storages, keys in zip(joint.input_storages, graph.input_keys, strict=True):
            for storage, key in zip(local_storages, keys, strict=True):
                if key in self._by_key:
                    self._local[region, storage] = self._by_key[key]
        held = kept_outputs(self._capture, region)
        self._needed |= needed_by_forward(joint)
        for index, op in enumerate(joint.ops):
            if not op.is_backward:
                self._add_node(region, index, op, held)
        taken_up = [self._by_key[k] for keys in graph.input_keys for k in keys if k in self._by_key]
        if taken_up:
            self._add_hold("inputs of a graph", tuple(dict.fromkeys(taken_up)), region)
        passed_on = taken_up_by_later_frames(self._capture, region)
        for storages, keys in zip(joint.forward_output_storages, graph.output_keys, strict=True):
            for storage, key in zip(storages, keys, strict=True):
                made = self._local.get((region, storage))
                if made is not None:
                    self._by_key[key] = made
                    if made not in self._outputs and key in passed_on:
                        self._passed_on[made] = None

    def add_hold(self) -> None:
        """Keep what passes from frame to frame to the end of the forward, as Python does."""
        if self._passed_on:
            last = len(self._capture.graphs) - 1
            self._add_hold("forward frames", tuple(self._passed_on), last)

    def _add_hold(self, name: str, reads: tuple[int, ...], region: int) -> None:
        self._add(
            Op(
                name=name,
                runtime_ns=0,
                reads=reads,
                writes=(self._marker(),),
                recomputable=False,
                region=region,
            ),
            Origin(kind="hold", region=region),
        )

    def add_backward(self, region: int) -> None:
        graph = self._capture.graphs[region]
        joint = graph.joint
        unknown = []
        for number, storages in enumerate(joint.tangent_storages):
            keys = graph.tangent_keys[number] if number < len(graph.tangent_keys) else ()
            for storage, key in zip(storages, keys, strict=False):
                if key in self._grad_by_key:
                    self._local[region, storage] = self._grad_by_key[key]
                else:
                    made = self._storage(f"g{region}.tangent{number}", joint.storage_bytes[storage])
                    self._local[region, storage] = made
                    unknown.append(made)
                    # Whoever starts the backward holds what it starts from until it ends.
                    self._outputs[made] = None
        if unknown:
            self._add(
                Op(
                    name="incoming gradients",
                    runtime_ns=0,
                    reads=(),
                    writes=tuple(unknown),
                    recomputable=False,
                    is_backward=True,
                    region=region,
                    is_fence=True,
                ),
                Origin(kind="tangents", region=region),
            )
        for index, op in enumerate(joint.ops):
            if op.is_backward:
                self._add_node(region, index, op, frozenset())
        for storages, keys in zip(joint.backward_output_storages, graph.grad_keys, strict=False):
            for storage, key in zip(storages, keys, strict=True):
                if (region, storage) in self._local:
                    self._grad_by_key[key] = self._local[region, storage]
        parameters = self._add_gradients(region)
        goes_on = gradients_wanted_before(self._capture, region)
        for storages, keys in zip(joint.backward_output_storages, graph.grad_keys, strict=False):
            for storage, key in zip(storages, keys, strict=True):
                gradient = self._local.get((region, storage))
                if gradient is not None and key not in goes_on and gradient not in parameters:
                    self._outputs[gradient] = None

    def _add_gradients(self, region: int) -> set[int]:
        """Let gradients of parameters wait until they are whole, then stay or be added and go.

        Returns:
            Those storages of this graph's gradients.
        """
        parameters: set[int] = set()
        gone: list[int] = []
        for key, storage in gradients_of_parameters(self._capture, region):
            gradient = self._local.get((region, storage))
            if gradient is None:
                continue
            parameters.add(gradient)
            contributions = self._contributions.setdefault(key, [])
            contributions.append(gradient)
            if self._first_users[key] == region:
                if not self._accumulates:
                    self._outputs[contributions[0]] = None
                gone += contributions[0 if self._accumulates else 1 :]
        gone = [storage for storage in dict.fromkeys(gone) if storage not in self._outputs]
        if gone:
            self._add(
                Op(
                    name="accumulation",
                    runtime_ns=0,
                    reads=tuple(gone),
                    writes=(self._marker(),),
                    recomputable=False,
                    is_backward=True,
                    region=region,
                    is_fence=True,
                ),
                Origin(kind="accumulation", region=region),
            )
        return parameters

    def add_optimizer(self, step_bytes: int) -> None:
        gradients = tuple(s for s in self._outputs if self._ops[self._writers[s]].is_backward)
        self._add(
            Op(
                name="optimizer step",
                runtime_ns=0,
                reads=gradients,
                writes=(self._marker(),),
                workspace_bytes=step_bytes,
                recomputable=False,
                is_backward=True,
                region=0,
                is_fence=True,
            ),
            Origin(kind="optimizer", region=0),
        )

    def _formula(self, region: int, op: JointNode) -> list[int]:
        """What one backward formula of eager's autograd has read and made so far.

        A graph outside of the model runs as eager does, where the incoming gradient, what was saved
        for a formula and its temporaries live until it returns.
        """
        if op.node.meta.get("partitioner_tag") != "is_backward":
            return []
        return self._formulas.setdefault((region, op.node.meta.get("seq_nr")), [])

    def _add_node(self, region: int, index: int, op: JointNode, held: frozenset[int]) -> None:
        graph = self._capture.graphs[region]
        joint = graph.joint
        local_writes = activation_writes(op.node, op.writes)
        cost = self._costs[op.node]
        measured = dict(zip(joint.node_storages[op.node], cost.output_bytes, strict=False))
        writes = []
        for storage in local_writes:
            size_bytes = max(joint.storage_bytes[storage], measured.get(storage, 0))
            made = self._storage(f"g{region}.{op.node.name}.{storage}", size_bytes)
            self._local[region, storage] = made
            writes.append(made)
            if storage in held:
                self._outputs[made] = None
        reads = [self._local[region, s] for s in op.reads if (region, s) in self._local]
        # Inputs that an earlier graph made are external to this graph but live storages to us.
        reads += [
            self._local[region, s]
            for parent in op.node.all_input_nodes
            for s in joint.node_storages[parent]
            if s in joint.external_storages and (region, s) in self._local
        ]
        if graph.is_outside:
            formula = self._formula(region, op)
            own = [*reads, *writes]
            reads += formula
            formula.extend(own)
        is_read_in_time = op.is_backward or op.node in self._needed
        is_unused_draw = op.is_random and not (op.node.users and is_read_in_time)
        runs_once = (
            not gives_the_same_again(op)
            or is_unused_draw
            or graph.is_outside
            or not graph.has_backward
            or (reads_any(graph, op, self._overwritten_keys) and not is_batch_norm(op.node))
            or op.is_backward
            or any(s in held for s in local_writes)
        )
        # A draw that nobody reads still moves the generator; one that the forward does not read
        # moves it in the forward.
        if op.is_effect or is_unused_draw:
            writes.append(self._marker())
        workspace_bytes = cost.workspace_bytes
        if op.is_random and not runs_once:
            state_bytes = rng_state_bytes(self._capture.device)
            state = self._storage(f"g{region}.{op.node.name}.rng_state", state_bytes)
            # While it is drawn again, the state that the generator is in by then is held aside.
            workspace_bytes += state_bytes
            self._add(
                Op(
                    name=f"{op.node.name}.rng_state",
                    runtime_ns=0,
                    reads=(),
                    writes=(state,),
                    recomputable=False,
                    segment=module_of(op.node, self._capture.module_names),
                    region=region,
                ),
                Origin(kind="rng_state", region=region, joint_op=index),
            )
            reads.append(state)
        overwrites = () if graph.is_outside else self._overwritten(region, op, writes)
        self._add(
            Op(
                name=op.node.name,
                runtime_ns=cost.runtime_ns,
                reads=tuple(dict.fromkeys(reads)),
                writes=tuple(writes),
                workspace_bytes=workspace_bytes,
                recomputable=not runs_once,
                is_backward=op.is_backward,
                is_fence=op.is_backward and (graph.is_outside or not may_move(op.node)),
                segment=module_of(op.node, self._capture.module_names),
                region=region,
                overwrites=overwrites,
            ),
            Origin(kind="node", region=region, joint_op=index),
        )

    def _overwritten(self, region: int, op: JointNode, writes: list[int]) -> tuple[int, ...]:
        over = None if op.overwrites is None else self._local.get((region, op.overwrites))
        if over is None:
            return ()
        size_bytes = sum(self._storages[s].size_bytes for s in writes)
        return (over,) if self._storages[over].size_bytes <= size_bytes else ()
