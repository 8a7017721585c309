"""A step as the engine's graph, in which calls of submodules are operations.

The forward is cut into *atoms*, calls that can be checkpointed, and the *stretches* of the model's
own code between them. What an atom saves inside itself is one storage, written by an operation that
may run again: to free it and write it again in the backward is to checkpoint the atom. Everything
else runs once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch

from autockpt.checkpoint.calls import Call, Calls
from autockpt.checkpoint.phases import Phases
from autockpt.profile.optimizer import OptimizerMemory
from autockpt.report.timeline.marked_ops import INCOMING_GRADIENTS, OPTIMIZER_STEP
from autockpt_solvers import Compute, ComputeGraph, Op, Storage, baseline_schedule, simulate

_BACKWARD_TIMES_FORWARD = 2  # the time of a stretch's backward is not measured


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CallGraph:
    """A graph, and where its operations come from.

    Attributes:
        graph: The graph.
        atoms: The atoms that its operations recompute, by operation.
        segments: By operation, the segments of the forward that it runs, or whose backward.
    """

    graph: ComputeGraph
    atoms: dict[int, Call]
    segments: dict[int, frozenset[int]]

    def with_measured(self, phases: Phases) -> CallGraph:
        """The graph in which eager's step needs what was measured in each of its phases.

        What the model's own code needs between calls, and what it keeps alive beside what is saved,
        becomes workspace of the operation in whose phase it was seen.
        """
        graph = self.graph
        bare = dataclasses.replace(
            graph, ops=tuple(dataclasses.replace(op, workspace_bytes=0) for op in graph.ops)
        )
        schedule = baseline_schedule(bare)
        live_bytes = {
            step.op: live
            for step, live in zip(schedule.steps, simulate(bare, schedule).live_bytes, strict=True)
            if isinstance(step, Compute)
        }
        ops = list(graph.ops)
        for number, segments in self.segments.items():
            op = ops[number]
            peaks = phases.backward_bytes if op.is_backward else phases.forward_bytes
            most_bytes = max((peaks.get(segment, 0) for segment in segments), default=0)
            workspace_bytes = max(op.workspace_bytes, most_bytes - live_bytes[number])
            ops[number] = dataclasses.replace(op, workspace_bytes=workspace_bytes)
        return dataclasses.replace(self, graph=dataclasses.replace(graph, ops=tuple(ops)))


def frontiers(calls: Calls) -> list[tuple[Call, ...]]:
    """Return ways to cut a forward into atoms: the outermost candidates, then those inside."""
    inside: dict[Call | None, list[Call]] = {None: []}
    under_way: list[Call] = []
    candidates = set(calls.candidates)
    for event in calls.events:
        if event.call not in candidates:
            continue
        if event.kind == "enter":
            inside.setdefault(under_way[-1] if under_way else None, []).append(event.call)
            under_way.append(event.call)
        else:
            under_way.pop()
    found = [tuple(inside[None])]
    while any(call in inside for call in found[-1]):
        found.append(tuple(part for call in found[-1] for part in inside.get(call, [call])))
    return [frontier for frontier in found if frontier]


def call_graph(
    calls: Calls,
    atoms: tuple[Call, ...],
    module: torch.nn.Module,
    optimizer: OptimizerMemory,
    *,
    accumulates: bool,
) -> CallGraph:
    """Return the graph of a training step in which these calls can be checkpointed.

    Args:
        calls: The forward.
        atoms: Candidates, none inside another.
        module: The model.
        optimizer: What the optimizer needs while it steps.
        accumulates: Whether gradients are added to older ones, and freed at once.
    """
    parts = _parts(calls, set(atoms))
    builder = _Builder(calls, parts, module)
    for part in parts:
        builder.add_forward(part)
    builder.add_roots(calls.root_bytes)
    gradients = _gradient_bytes(module, parts)
    for part in reversed(parts):
        builder.add_backward(part, gradients[part], stays=not accumulates)
    builder.add_optimizer(optimizer.step_bytes)
    return CallGraph(graph=builder.finish(), atoms=builder.atoms, segments=builder.segments)


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class _Part:
    """An atom, or a stretch of code between atoms.

    ``wanted`` are storages that it makes unless an earlier part did, ``paths`` the modules that it
    calls, ``segments`` the numbers of its segments: one begins where a call begins or ends.
    """

    atom: Call | None
    name: str
    runtime_ns: int = 0
    saved: dict[int, None] = dataclasses.field(default_factory=dict)
    wanted: tuple[int, ...] = ()
    paths: set[str] = dataclasses.field(default_factory=set)
    segments: set[int] = dataclasses.field(default_factory=set)


def _between(number: int) -> str:
    return f"code outside of checkpointed modules, part {number + 1}"


def _parts(calls: Calls, atoms: set[Call]) -> list[_Part]:
    parts = [_Part(atom=None, name=_between(0), segments={0})]
    num_marks = 0
    began_ns = calls.events[0].time_ns if calls.events else 0
    inside: Call | None = None
    for event in calls.events:
        if event.call is None:
            parts[-1].saved[event.storage] = None
            continue
        if event.kind == "enter":
            if inside is None and event.call in atoms:
                inside = event.call
                parts[-1].runtime_ns = event.time_ns - began_ns
                parts[-1].wanted = inside.inputs
                parts.append(
                    _Part(
                        atom=inside, name=f"{inside.path}({inside.number})", wanted=inside.outputs
                    )
                )
            parts[-1].paths.add(event.call.path)
        elif event.call is inside:
            inside, began_ns = None, event.time_ns
            parts.append(_Part(atom=None, name=_between(len(parts) // 2)))
        num_marks += 1
        parts[-1].segments.add(num_marks)
    parts[-1].wanted = tuple(calls.held)
    return parts


def _gradient_bytes(module: torch.nn.Module, parts: list[_Part]) -> dict[_Part, int]:
    """Bytes of parameters' gradients, by the part whose backward writes them first."""
    sizes = dict.fromkeys(parts, 0)
    last_part: dict[str, _Part] = {path: part for part in parts for path in part.paths}
    owners: dict[torch.nn.Parameter, list[_Part]] = {}
    for path, submodule in module.named_modules():
        for parameter in submodule.parameters(recurse=False):
            owners.setdefault(parameter, []).append(last_part.get(path, parts[-1]))
    order = {part: number for number, part in enumerate(parts)}
    for parameter, used in owners.items():
        if parameter.requires_grad:
            size_bytes = parameter.numel() * parameter.element_size()
            sizes[max(used, key=order.__getitem__)] += size_bytes
    return sizes


class _Builder:
    """Collects ops and storages part by part."""

    def __init__(self, calls: Calls, parts: list[_Part], module: torch.nn.Module) -> None:
        self._calls = calls
        self._module = module
        self._ops: list[Op] = []
        self._storages: list[Storage] = []
        self._outputs: list[int] = []
        # Engine storages of observed storages, of what an atom saves inside, and of gradients.
        self._made: dict[int, int] = {}
        self._kept: dict[_Part, int] = {}
        self._gradients: dict[int, int] = {}
        self._parameter_gradients: list[int] = []
        # Observed storages that a part makes, and those that it is assumed to compute them from.
        self._makes: dict[_Part, tuple[int, ...]] = {}
        self._takes: dict[_Part, tuple[int, ...]] = {}
        self._latest: tuple[int, ...] = ()
        atoms = [part.atom for part in parts if part.atom is not None]
        # What passes between parts; the rest of what an atom saves is inside it.
        self._passed = calls.held.union(
            *(part.saved for part in parts if part.atom is None),
            *((*atom.inputs, *atom.outputs) for atom in atoms),
        )
        self._differentiable = {s for a in atoms for s in (*a.input_gradients, *a.outputs)}
        self.atoms: dict[int, Call] = {}
        self.segments: dict[int, frozenset[int]] = {}

    def finish(self) -> ComputeGraph:
        return ComputeGraph(
            ops=tuple(self._ops),
            storages=tuple(self._storages),
            outputs=tuple(self._outputs),
        )

    def _storage(self, name: str, size_bytes: int, *, is_output: bool = False) -> int:
        self._storages.append(Storage(name=name, size_bytes=size_bytes))
        number = len(self._storages) - 1
        if is_output:
            self._outputs.append(number)
        return number

    def _engine(self, storages: Iterable[int]) -> tuple[int, ...]:
        """The engine storages of the observed storages that are in the graph."""
        return tuple(dict.fromkeys(self._made[s] for s in storages if s in self._made))

    def add_forward(self, part: _Part) -> None:
        atom = part.atom
        takes = self._takes[part] = self._latest if atom is None else atom.inputs
        reads = self._engine(takes)
        if atom is not None:
            assert atom.cost is not None
            own = part.saved.keys() - self._passed
            kept_bytes = sum(self._calls.storage_bytes[s] for s in own)
            state = self._add_state(part.name, atom)
            kept = self._kept[part] = self._storage(f"inside {part.name}", kept_bytes)
            self.atoms[len(self._ops)] = atom
            self._ops.append(
                Op(
                    name=part.name,
                    runtime_ns=atom.cost.runtime_ns,
                    reads=(*reads, state),
                    writes=(kept,),
                    # While it runs again, the generator's state of then is set aside.
                    workspace_bytes=max(0, atom.cost.forward_bytes - kept_bytes)
                    + torch.get_rng_state().nbytes,
                    segment=atom.path,
                )
            )
            reads = (*reads, kept)
        makes = self._makes[part] = tuple(
            s
            for s in dict.fromkeys((*part.wanted, *part.saved))
            if s in self._passed and s not in self._made
        )
        for storage in makes:
            self._made[storage] = self._storage(
                f"value {storage}",
                self._calls.storage_bytes[storage],
                is_output=storage in self._calls.held,
            )
        done = self._storage(f"{part.name} is done", 0, is_output=True)
        self.segments[len(self._ops)] = frozenset(part.segments)
        self._ops.append(
            Op(
                name=part.name if atom is None else f"{part.name} returns",
                runtime_ns=part.runtime_ns,
                reads=reads,
                writes=(*self._engine(makes), done),
                recomputable=False,
                segment="" if atom is None else atom.path,
            )
        )
        self._latest = makes or self._latest

    def add_roots(self, size_bytes: int) -> None:
        """Add the gradients that the backward starts from, which its caller keeps."""
        self._ops.append(
            Op(
                name=INCOMING_GRADIENTS,
                runtime_ns=0,
                reads=(),
                writes=(self._storage(INCOMING_GRADIENTS, size_bytes, is_output=True),),
                recomputable=False,
                is_backward=True,
                is_fence=True,
            )
        )

    def _add_state(self, name: str, atom: Call) -> int:
        """Add what a checkpoint keeps beside the inputs, and return what that writes."""
        owner = self._module.get_submodule(atom.path)
        buffers = [owner.get_buffer(written) for written in atom.written]
        size_bytes = torch.get_rng_state().nbytes + sum(buffer.nbytes for buffer in buffers)
        state = self._storage(f"generators and buffers for {name}", size_bytes)
        self._ops.append(
            Op(
                name=f"state before {name}",
                runtime_ns=0,
                reads=(),
                writes=(state,),
                recomputable=False,
                segment=atom.path,
            )
        )
        return state

    def add_backward(self, part: _Part, gradient_bytes: int, *, stays: bool) -> None:
        atom = part.atom
        leaving = [
            s
            for s in (self._takes[part] if atom is None else atom.input_gradients)
            if s in self._made and s in self._differentiable
        ]
        reads = [*self._engine(part.saved), *([self._kept[part]] if atom is not None else [])]
        reads += [
            self._gradients[s] for s in (*self._makes[part], *leaving) if s in self._gradients
        ]
        writes = []
        for storage in leaving:
            if storage not in self._gradients:
                size_bytes = self._calls.storage_bytes[storage]
                made = self._storage(f"gradient of value {storage}", size_bytes)
                self._gradients[storage] = made
                writes.append(made)
        if gradient_bytes:
            made = self._storage(f"gradients of {part.name}", gradient_bytes, is_output=stays)
            writes.append(made)
            self._parameter_gradients += [made] if stays else []
        written_bytes = sum(self._storages[storage].size_bytes for storage in writes)
        cost = atom.cost if atom is not None else None
        self.segments[len(self._ops)] = frozenset(part.segments)
        self._ops.append(
            Op(
                name=f"backward of {part.name}",
                runtime_ns=(
                    part.runtime_ns * _BACKWARD_TIMES_FORWARD if cost is None else cost.backward_ns
                ),
                reads=tuple(dict.fromkeys(reads)),
                writes=tuple(writes),
                workspace_bytes=(
                    0
                    if cost is None
                    # A checkpoint frees the generator's state when its backward is done.
                    else max(0, cost.backward_bytes - written_bytes) + torch.get_rng_state().nbytes
                ),
                recomputable=False,
                is_backward=True,
                is_fence=True,
                segment="" if atom is None else atom.path,
            )
        )

    def add_optimizer(self, step_bytes: int) -> None:
        self._ops.append(
            Op(
                name=OPTIMIZER_STEP,
                runtime_ns=0,
                reads=tuple(self._parameter_gradients),
                writes=(self._storage("optimizer is done", 0, is_output=True),),
                workspace_bytes=step_bytes,
                recomputable=False,
                is_backward=True,
                is_fence=True,
            )
        )
