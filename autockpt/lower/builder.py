"""Build the engine's graph op by op, from the nodes of the captured graphs.

Views become the storages that they look at. What the engine must know about torch (what may run
twice, who keeps what) becomes plain facts of an op.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.fx as fx

from autockpt.capture.captured import (
    Capture,
    first_users,
    gradients_of_parameters,
    gradients_wanted_before,
    kept_outputs,
    overwritten_keys,
    taken_up_by_later_frames,
)
from autockpt.capture.joint import JointNode, gradients_as_views, needed_by_forward
from autockpt.capture.nodes import activation_writes, may_move
from autockpt.loop import Loop
from autockpt.lower.gradients import keys_of_input, makers_of_inputs
from autockpt.lower.once import must_run_once
from autockpt.lower.order_of_writes import OrderOfWrites
from autockpt.lower.origins import Origin, module_of
from autockpt.profile.cache import NodeCost
from autockpt.report.timeline.marked_ops import (
    CLEARED_GRADIENTS,
    INCOMING_GRADIENTS,
    OPTIMIZER_STEP,
)
from autockpt.torch_private.generators import rng_state_bytes
from autockpt.verify.live_bytes import rounded_up
from autockpt_solvers import ComputeGraph, Op, Storage


class GraphBuilder:
    """Collects ops and storages, one captured graph (a region) at a time."""

    def __init__(self, capture: Capture, costs: dict[fx.Node, NodeCost], *, loop: Loop) -> None:
        self._capture = capture
        self._costs = costs
        self._accumulates = loop.accumulates
        self._freed_keys = capture.freed_keys(loop)
        self._saved_outside_keys = capture.saved_outside_keys
        self._ops: list[Op] = []
        self._storages: list[Storage] = []
        self._outputs: dict[int, None] = {}
        self._writers: dict[int, int] = {}
        # Engine storage by (region, storage of its joint graph), and by key across graphs.
        self._local: dict[tuple[int, int], int] = {}
        self._by_key: dict[int, int] = {}
        self._grad_by_key: dict[int, int] = {}
        # By graph: engine storages of gradients that autograd adds up on the way there.
        self._passed_back: dict[int, list[int]] = {}
        self._passed_on: dict[int, None] = {}
        self._drawn: dict[int, tuple[int, ...]] = {}
        self._order = OrderOfWrites(capture.graphs, self._storage)
        self._formulas: dict[tuple[int, int | None], list[int]] = {}
        # Engine storages of a parameter's gradient, one for each graph that uses the parameter, or
        # two; and those of gradients that are views.
        self._contributions: dict[int, list[int]] = {}
        self._views: set[int] = set()
        self._first_users = first_users(capture)
        self._overwritten_keys = overwritten_keys(capture.graphs)
        self._needed: set[fx.Node] = set()
        self.origins: list[Origin] = []

    def finish(self) -> ComputeGraph:
        """Return the graph of all that was added."""
        return ComputeGraph(
            ops=tuple(self._ops), storages=tuple(self._storages), outputs=tuple(self._outputs)
        )

    def _storage(self, name: str, size_bytes: int) -> int:
        size_bytes = rounded_up(size_bytes, self._capture.unit_bytes)
        self._storages.append(Storage(name=name, size_bytes=size_bytes))
        return len(self._storages) - 1

    def _add(self, op: Op, origin: Origin) -> None:
        for storage in op.writes:
            self._writers[storage] = len(self._ops)
        self._ops.append(op)
        self.origins.append(origin)

    def _marker(self) -> int:
        """Add an empty output: an op that writes it runs exactly once, in its place."""
        marker = self._storage(f"marker{len(self._storages)}", 0)
        self._outputs[marker] = None
        return marker

    def add_forward(self, region: int) -> None:
        """Add the forward of a captured graph; call it for the graphs in forward order."""
        graph = self._capture.graphs[region]
        joint = graph.joint
        for local_storages, keys in zip(joint.input_storages, graph.input_keys, strict=True):
            for storage, key in zip(local_storages, keys, strict=True):
                if key in self._by_key:
                    self._local[region, storage] = self._by_key[key]
        held = kept_outputs(self._capture, region, self._freed_keys)
        # What is saved outside is the forward's own tensor, not one that is made again.
        saved_outside = frozenset(
            storage
            for storages, keys in zip(joint.forward_output_storages, graph.output_keys, strict=True)
            for storage, key in zip(storages, keys, strict=True)
            if key in self._saved_outside_keys
        )
        self._needed |= needed_by_forward(joint)
        for index, op in enumerate(joint.ops):
            if not op.is_backward:
                self._add_node(region, index, op, held, saved_outside)
        taken_up = [self._by_key[k] for keys in graph.input_keys for k in keys if k in self._by_key]
        if taken_up:
            self._add_hold("inputs of a graph", tuple(dict.fromkeys(taken_up)), region)
        passed_on = taken_up_by_later_frames(self._capture, region)
        for storages, keys in zip(joint.forward_output_storages, graph.output_keys, strict=True):
            for storage, key in zip(storages, keys, strict=True):
                made = self._local.get((region, storage))
                if made is not None:
                    self._by_key[key] = made
                    if made not in self._outputs and key in passed_on | self._freed_keys:
                        self._passed_on[made] = None

    def add_older_gradients(self, size_bytes: int) -> None:
        """Keep gradients of an earlier backward until the end of the forward."""
        if size_bytes:
            older = self._storage(CLEARED_GRADIENTS, size_bytes)
            self._add(
                Op(
                    name=CLEARED_GRADIENTS,
                    runtime_ns=0,
                    reads=(),
                    writes=(older,),
                    recomputable=False,
                    region=0,
                ),
                Origin(kind="hold", region=0),
            )
            self._passed_on[older] = None

    def add_hold(self) -> None:
        """Keep what Python keeps until the end of the forward, and frees before the backward.

        That is what passes between its frames, outputs that nobody keeps, and older gradients.
        """
        if self._passed_on:
            last = len(self._capture.graphs) - 1
            self._add_hold("end of the forward", tuple(self._passed_on), last)

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
        """Add the backward of a captured graph; call it for the graphs in backward order."""
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
        if unknown:
            origin = Origin(kind="tangents", region=region)
            self._add_fence(INCOMING_GRADIENTS, (), unknown, origin)
        passed_back = self._passed_back.pop(region, [])
        if passed_back:
            self._add_fence(
                "sums of gradients",
                passed_back,
                [self._marker()],
                Origin(kind="sums", region=region),
            )
        for index, op in enumerate(joint.ops):
            if op.is_backward:
                self._add_node(region, index, op)
        for storages, keys in zip(joint.backward_output_storages, graph.grad_keys, strict=False):
            for storage, key in zip(storages, keys, strict=True):
                if (region, storage) in self._local:
                    self._grad_by_key[key] = self._local[region, storage]
        self._views.update(
            self._local[region, storage]
            for storage in gradients_as_views(joint)
            if (region, storage) in self._local
        )
        self._keep_gradients(region)
        # The caller keeps the gradients that it starts the backward from until it ends; autograd
        # frees those that it passes on.
        held = self._capture.held_keys
        if any(key in held for keys in graph.output_keys for key in keys):
            self._outputs.update(dict.fromkeys(unknown))

    def _add_fence(
        self, name: str, reads: Sequence[int], writes: Sequence[int], origin: Origin
    ) -> None:
        """Add a step of the backward that has a fixed place."""
        self._add(
            Op(
                name=name,
                runtime_ns=0,
                reads=tuple(reads),
                writes=tuple(writes),
                recomputable=False,
                is_backward=True,
                region=origin.region,
                is_fence=True,
            ),
            origin,
        )

    def _keep_gradients(self, region: int) -> None:
        """Keep gradients of parameters and inputs; autograd passes the others to earlier graphs."""
        graph = self._capture.graphs[region]
        parameters = self._add_gradients(region)
        goes_on = gradients_wanted_before(self._capture, region)
        of_inputs: dict[tuple[int, ...], list[int]] = {}
        outgoing = zip(graph.joint.backward_output_storages, graph.grad_keys, strict=False)
        for number, ((storages, keys), maker) in enumerate(
            zip(outgoing, makers_of_inputs(self._capture, region), strict=False)
        ):
            for storage, key in zip(storages, keys, strict=True):
                gradient = self._local.get((region, storage))
                if gradient is None or key in goes_on or gradient in parameters:
                    continue
                if maker is None:
                    of_inputs.setdefault(keys_of_input(self._capture, region, number), []).append(
                        gradient
                    )
                else:
                    self._passed_back.setdefault(maker, []).append(gradient)
        for gradients in of_inputs.values():
            # Whether autograd can add in place is not always what their layouts in the trace tell.
            is_summed = len({*gradients}) > 1
            kept = [self._add_sum(gradients, region)] if is_summed else gradients
            self._outputs.update(dict.fromkeys(kept))

    def _add_gradients(self, region: int) -> set[int]:
        """Keep gradients of parameters until they are complete, then keep or accumulate them.

        Returns:
            The storages of this graph's gradients of parameters.
        """
        parameters: set[int] = set()
        complete: dict[int, None] = {}
        gone: list[int] = []
        for key, storage in gradients_of_parameters(self._capture, region):
            gradient = self._local.get((region, storage))
            if gradient is None:
                continue
            parameters.add(gradient)
            contributions = self._contributions.setdefault(key, [])
            contributions.append(gradient)
            if self._first_users[key] == region:
                complete[key] = None
        for key in complete:
            contributions = self._contributions[key]
            if self._is_summed_elsewhere(contributions):
                summed = self._add_sum(contributions, region)
                contributions = [summed]
                parameters.add(summed)
            if not self._accumulates:
                self._outputs[contributions[0]] = None
            gone += contributions[0 if self._accumulates else 1 :]
        gone = [storage for storage in dict.fromkeys(gone) if storage not in self._outputs]
        if gone:
            origin = Origin(kind="accumulation", region=region)
            self._add_fence("accumulation", gone, [self._marker()], origin)
        return parameters

    def _is_summed_elsewhere(self, gradients: Sequence[int]) -> bool:
        """Whether autograd adds several gradients up in new memory.

        A view holds on to its base, so autograd does not add into it. Gradients of linear layers
        are views: they come transposed.
        """
        return len({*gradients}) > 1 and not self._views.isdisjoint(gradients)

    def _add_sum(self, gradients: Sequence[int], region: int) -> int:
        """Add the sum of gradients, in memory of its own; return it."""
        size_bytes = max(self._storages[gradient].size_bytes for gradient in gradients)
        summed = self._storage(f"g{region}.sum", size_bytes)
        reads = tuple(dict.fromkeys(gradients))
        self._add_fence("sum of gradients", reads, [summed], Origin(kind="sums", region=region))
        return summed

    def add_optimizer(self, step_bytes: int) -> None:
        """Add the optimizer's step, which needs all gradients and this much memory beside them."""
        gradients = tuple(s for s in self._outputs if self._ops[self._writers[s]].is_backward)
        self._add(
            Op(
                name=OPTIMIZER_STEP,
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

    def _add_node(
        self,
        region: int,
        index: int,
        op: JointNode,
        held: frozenset[int] = frozenset(),
        saved_outside: frozenset[int] = frozenset(),
    ) -> None:
        """Add the op of one node of a captured graph.

        Args:
            region: The graph.
            index: Position of the node among the graph's ops.
            op: The node.
            held: The graph's storages that stay to the end of the step.
            saved_outside: Those that code outside of the model saves.
        """
        graph = self._capture.graphs[region]
        writes = self._add_writes(region, op, held)
        reads = self._reads(region, op)
        if graph.is_outside:
            formula = self._formula(region, op)
            own = [*reads, *writes]
            reads += formula
            formula.extend(own)
        is_read_in_time = op.is_backward or op.node in self._needed
        is_unused_draw = op.is_random and not (op.node.users and is_read_in_time)
        # A draw that nobody reads still moves the generator; one that the forward does not read
        # moves it in the forward.
        if op.is_effect or is_unused_draw:
            writes.append(self._marker())
        self._order.keep(region, op, reads, writes)
        runs_once = is_unused_draw or must_run_once(
            graph,
            op,
            is_outside=graph.has_outside(index),
            held=held | saved_outside,
            overwritten_keys=self._overwritten_keys,
            on_accelerator=self._capture.runs_on.type != "cpu",
        )
        workspace_bytes = self._costs[op.node].workspace_bytes
        after = self._drawn.get(region, ()) if op.is_random and not op.is_backward else ()
        if op.is_random and not runs_once:
            reads.append(self._add_rng_state(region, index, op, after))
        else:
            reads.extend(after)
        if op.is_random and not op.is_backward:
            # The next draw comes after this one, as in eager, whatever else changes places.
            self._drawn[region] = (self._storage(f"g{region}.{op.node.name}.drawn", 0),)
            writes.extend(self._drawn[region])
        if op.is_random and not runs_once:
            # While it is drawn again, the state that the generator is in by then is set aside.
            workspace_bytes += rng_state_bytes(self._capture.runs_on)
        self._add(
            Op(
                name=op.node.name,
                runtime_ns=self._costs[op.node].runtime_ns,
                reads=tuple(dict.fromkeys(reads)),
                writes=tuple(writes),
                workspace_bytes=workspace_bytes,
                recomputable=not runs_once,
                is_backward=op.is_backward,
                is_fence=op.is_backward and (graph.is_outside or not may_move(op.node)),
                segment=module_of(op.node, self._capture.module_names),
                region=region,
                overwrites=() if graph.is_outside else self._overwritten(region, op, writes),
            ),
            Origin(kind="node", region=region, joint_op=index),
        )

    def _add_writes(self, region: int, op: JointNode, held: frozenset[int]) -> list[int]:
        """Add the storages that an op makes."""
        joint = self._capture.graphs[region].joint
        measured_bytes = self._costs[op.node].output_bytes
        measured = dict(zip(joint.node_storages[op.node], measured_bytes, strict=False))
        writes = []
        for storage in activation_writes(op.node, op.writes):
            size_bytes = max(joint.storage_bytes[storage], measured.get(storage, 0))
            made = self._storage(f"g{region}.{op.node.name}.{storage}", size_bytes)
            self._local[region, storage] = made
            writes.append(made)
            if storage in held:
                self._outputs[made] = None
        return writes

    def _reads(self, region: int, op: JointNode) -> list[int]:
        joint = self._capture.graphs[region].joint
        reads = [self._local[region, s] for s in op.reads if (region, s) in self._local]
        # Inputs that an earlier graph made are external to this graph, but storages of the step.
        reads += [
            self._local[region, s]
            for parent in op.node.all_input_nodes
            for s in joint.node_storages[parent]
            if s in joint.external_storages and (region, s) in self._local
        ]
        return reads

    def _formula(self, region: int, op: JointNode) -> list[int]:
        """What one backward formula of eager's autograd has read and made so far.

        A graph outside of the model runs as eager does: the incoming gradient, what was saved for a
        formula and its temporaries live until it returns.
        """
        if op.node.meta.get("partitioner_tag") != "is_backward":
            return []
        return self._formulas.setdefault((region, op.node.meta.get("seq_nr")), [])

    def _add_rng_state(self, region: int, index: int, op: JointNode, after: tuple[int, ...]) -> int:
        """Add the op that reads the generator before a random op, and return what it writes.

        Args:
            region: The graph.
            index: Position of the random node among the graph's ops.
            op: The random node.
            after: What the draw before it has written.
        """
        name = f"{op.node.name}.rng_state"
        state = self._storage(f"g{region}.{name}", rng_state_bytes(self._capture.runs_on))
        self._add(
            Op(
                name=name,
                runtime_ns=0,
                reads=after,
                writes=(state,),
                recomputable=False,
                segment=module_of(op.node, self._capture.module_names),
                region=region,
            ),
            Origin(kind="rng_state", region=region, joint_op=index),
        )
        return state

    def _overwritten(self, region: int, op: JointNode, writes: list[int]) -> tuple[int, ...]:
        over = None if op.overwrites is None else self._local.get((region, op.overwrites))
        if over is None:
            return ()
        size_bytes = sum(self._storages[s].size_bytes for s in writes)
        return (over,) if self._storages[over].size_bytes <= size_bytes else ()
