"""A forward as calls of its submodules: what each saves for the backward, and what it costs.

autockpt runs the forward twice on the given inputs, without a backward. It records and discards
what autograd would save, so this takes no more memory than a forward without gradients. During the
second forward it measures one call of each kind that could be worth a checkpoint, by itself.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch

from autockpt import progress
from autockpt.checkpoint.cost import CallCost, kind_of, measure_call, runs_alone
from autockpt.checkpoint.obstacles import CallWatch, WritesSeen, WrittenTensors
from autockpt.errors import CaptureError, NotTrainableError
from autockpt.loop import PLAIN
from autockpt.torch_private.pytree import tree_leaves
from autockpt.torch_private.tensors import key_of_storage
from autockpt.verify.copies import own_copies
from autockpt.verify.inputs import input_leaves
from autockpt.verify.live_bytes import distinct_bytes
from autockpt.verify.loss import backward_roots, find_loss
from autockpt.verify.random_state import random_states
from autockpt.verify.replaced import replaced_forwards
from autockpt.verify.silence import silenced
from autockpt.verify.step import Step

_MIN_SHARE = 0.002  # of what a forward saves: below, a checkpoint gains nothing
_MAX_SHARE = 0.7  # above, recomputing a call brings back most of what it freed
_MAX_WRITTEN_SHARE = 0.1  # of what a call saves: the buffers it writes, which are copied


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """One call of a submodule.

    Attributes:
        path: The name of the submodule.
        number: Which of the submodule's calls it is.
        inputs: The storages of its inputs, by number.
        input_gradients: Those of its inputs that require a gradient.
        outputs: The storages that it returns.
        saved: The storages that autograd saves during it.
        kept_bytes: Bytes of what is saved apart from inputs and outputs.
        obstacle: Why it cannot be recomputed; empty if it can.
        written: Names of the buffers inside the module that it writes.
        fills_saved: Whether an operator writes into what was saved for its backward before it ran.
        cost: What it costs, for candidates.
    """

    path: str
    number: int
    inputs: tuple[int, ...]
    input_gradients: tuple[int, ...]
    outputs: tuple[int, ...] = ()
    saved: frozenset[int] = frozenset()
    kept_bytes: int = 0
    obstacle: str = ""
    written: tuple[str, ...] = ()
    fills_saved: bool = False
    cost: CallCost | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A call begins or ends, or a storage is saved for the backward."""

    kind: Literal["enter", "leave", "save"]
    time_ns: int
    call: Call | None = None
    storage: int = -1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """A watched forward, the loss included.

    Attributes:
        events: What happened, in order.
        candidates: Calls that can be checkpointed, and could be worth it.
        obstacles: Why other calls are no candidates.
        storage_bytes: The size of every storage, by number.
        held: The storages that the caller of the model gets.
        root_bytes: Bytes of the gradients that the backward starts from.
        runtime_ns: The time of the forward.
    """

    events: tuple[Event, ...]
    candidates: tuple[Call, ...]
    obstacles: tuple[str, ...]
    storage_bytes: tuple[int, ...]
    held: frozenset[int]
    root_bytes: int
    runtime_ns: int

    @property
    def order(self) -> list[str]:
        """Names of the modules called, in order."""
        return [event.call.path for event in self.events if event.kind == "enter" and event.call]

    @property
    def kept_bytes(self) -> int:
        """Bytes of what autograd saves during the forward."""
        kept = {event.storage for event in self.events if event.kind == "save"}
        return sum(self.storage_bytes[storage] for storage in kept)


def observe(step: Step) -> Calls:
    """Watch a step's forward and measure each candidate.

    Raises:
        CaptureError: The forward runs a backward inside.
        NotTrainableError: No output requires a gradient.
    """
    first, states = _observed(step)
    others = step.with_other_draws(
        (first, step),
        states,
        lambda other: (_observed(other)[0], other),
        path=lambda found: found[0].order,
    )
    # A forward that drops layers at random is planned for the draw that saves the most.
    first, step = max([(first, step), *others], key=lambda found: found[0].kept_bytes)
    known = {(call.path, call.number): call for call in first.candidates}
    if not known:
        return first
    progress.stage("measuring the calls of modules", num_all=len(known))
    return dataclasses.replace(_Observer(step, known=known).run(), obstacles=first.obstacles)


def _observed(step: Step) -> tuple[Calls, tuple[Any, ...]]:
    observer = _Observer(step, known={})
    return observer.run(), observer.random_states


class _Observer:
    """One forward: it looks for obstacles, or measures candidates if they are known."""

    def __init__(self, step: Step, *, known: dict[tuple[str, int], Call]) -> None:
        self._step = step
        self._known = known
        self._events: list[Event] = []
        self._calls: list[Call] = []
        self._stack: list[tuple[Call, dict[int, torch.Tensor]]] = []
        self._watches: list[tuple[Call, CallWatch]] = []
        self._numbers: collections.Counter[str] = collections.Counter()
        self._costs: dict[Any, CallCost | None] = {}
        self._num_measured = 0
        self._paused_ns = 0
        self._is_apart = False
        self.random_states: tuple[Any, ...] = ()

    def run(self) -> Calls:
        step, module = self._step, self._step.module
        args, kwargs = own_copies((step.args, dict(step.kwargs)))
        buffers, parameters = list(module.buffers()), list(module.parameters())
        self._storages = _StorageNumbers([*parameters, *buffers, *input_leaves((args, kwargs))])
        modules = {
            path: submodule
            for path, submodule in module.named_modules()
            if path and not isinstance(submodule, torch.jit.ScriptModule)
        }
        with (
            dataclasses.replace(step, loop=PLAIN).state_kept(),
            # Otherwise wrappers for data parallelism wait for a backward.
            getattr(module, "no_sync", contextlib.nullcontext)(),
            torch.autograd.graph.saved_tensors_hooks(self._save, self._refuse),
            replaced_forwards(modules, self._watched),
            silenced(),
            contextlib.nullcontext() if self._known else WritesSeen(self._see_written),
        ):
            self._written = WrittenTensors(buffers=buffers, parameters=parameters)
            started_ns = self._now()
            output = step.forward(*args, **kwargs)
            loss = find_loss(output, step.loss_fn, step.loop.used_outputs)
            runtime_ns = self._now() - started_ns
            roots = backward_roots(loss)[0]
            if not roots:
                raise NotTrainableError("no output of its forward requires grad")
            root_bytes = sum(root.nbytes for root in roots)
            held = self._storages.of([*tree_leaves(output), *loss])
            self.random_states = random_states(step.device)
        for call, watch in self._watches:
            call.obstacle = call.obstacle or watch.written_inputs()
        return Calls(
            events=tuple(self._events),
            candidates=self._candidates(),
            obstacles=tuple(f"{c.path}: {c.obstacle}" for c in self._calls if c.obstacle),
            storage_bytes=tuple(self._storages.sizes),
            held=frozenset(held),
            root_bytes=root_bytes,
            runtime_ns=runtime_ns,
        )

    def _candidates(self) -> tuple[Call, ...]:
        kept = {event.storage for event in self._events if event.kind == "save"}
        kept_bytes = sum(self._storages.sizes[storage] for storage in kept)
        worth = range(int(_MIN_SHARE * kept_bytes) + 1, int(_MAX_SHARE * kept_bytes) + 1)
        return tuple(
            call
            for call in self._calls
            if not call.obstacle
            and call.kept_bytes in worth
            and (not self._known or call.cost is not None)
        )

    def _now(self) -> int:
        device = self._step.device
        if device.type not in ("cpu", "meta"):
            torch.get_device_module(device).synchronize(device)
        return time.perf_counter_ns() - self._paused_ns

    @contextlib.contextmanager
    def _apart(self) -> Iterator[None]:
        """Run something without watching it or counting its time."""
        started_ns = time.perf_counter_ns()
        self._is_apart = True
        try:
            yield
        finally:
            self._is_apart = False
            self._paused_ns += time.perf_counter_ns() - started_ns

    def _save(self, tensor: torch.Tensor) -> None:
        for storage in self._storages.of([tensor]):
            self._events.append(Event(kind="save", time_ns=0, storage=storage))

    def _refuse(self, _: Any) -> torch.Tensor:
        raise CaptureError(
            where=type(self._step.module).__name__,
            reason="a backward runs inside its forward, so autockpt cannot watch the forward alone",
        )

    def _see_written(self, tensors: list[torch.Tensor]) -> None:
        written = set(self._storages.of(tensors))
        if any(e.kind == "save" and e.storage in written for e in self._events):
            for call, _ in self._stack:
                call.fills_saved = True

    def _watched(
        self, path: str, module: torch.nn.Module, forward: Callable[..., Any]
    ) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._is_apart or not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            with self._apart():
                record, watch = self._entered(path, module, forward, (args, kwargs))
            self._events.append(Event(kind="enter", time_ns=self._now(), call=record))
            position = len(self._events)
            output = forward(*args, **kwargs)
            self._events.append(Event(kind="leave", time_ns=self._now(), call=record))
            with self._apart():
                # A call may put its results into containers that it receives.
                self._left(record, module, (output, args, kwargs), position, watch)
            return output

        return call

    def _entered(
        self,
        path: str,
        module: torch.nn.Module,
        forward: Callable[..., Any],
        inputs: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> tuple[Call, CallWatch | None]:
        tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
        record = Call(
            path=path,
            number=self._numbers[path],
            inputs=self._storages.of(tensors),
            input_gradients=self._storages.of([t for t in tensors if t.requires_grad]),
        )
        self._numbers[path] += 1
        self._calls.append(record)
        watch = None
        if not self._known:
            self._blame()
            watch = CallWatch(module, inputs)
            self._watches.append((record, watch))
        elif (path, record.number) in self._known:
            self._num_measured += 1
            progress.advance(self._num_measured)
            known = self._known[path, record.number]
            record.obstacle, record.written = known.obstacle, known.written
            record.fills_saved = known.fills_saved
            kind = kind_of(module, inputs)
            if kind not in self._costs:
                self._costs[kind] = self._cost(module, forward, inputs)
            record.cost = self._costs[kind]
        self._stack.append((record, {}))
        return record, watch

    def _cost(
        self, module: torch.nn.Module, forward: Callable[..., Any], inputs: Any
    ) -> CallCost | None:
        try:
            return measure_call(module, forward, inputs, self._step.device)
        except Exception:
            if runs_alone(module, forward, inputs, self._step.device):
                raise
            return None  # a call that cannot run alone is no candidate

    def _left(
        self,
        record: Call,
        module: torch.nn.Module,
        results: Any,
        position: int,
        watch: CallWatch | None,
    ) -> None:
        leaves = self._storages.of(tree_leaves(results))
        record.outputs = tuple(s for s in leaves if s not in record.inputs)
        record.saved = frozenset(e.storage for e in self._events[position:] if e.kind == "save")
        record.kept_bytes = sum(
            self._storages.sizes[s] for s in record.saved.difference(record.inputs, record.outputs)
        )
        if watch is not None:
            self._blame()
            written = self._stack[-1][1]
            names = {id(buffer): name for name, buffer in module.named_buffers()}
            record.obstacle = watch.obstacle()
            if written.keys() - names.keys():
                record.obstacle = "it writes parameters, or buffers of other modules"
            elif distinct_bytes([*written.values()]) > _MAX_WRITTEN_SHARE * record.kept_bytes:
                record.obstacle = "it writes large buffers"
            record.written = tuple(names[tensor] for tensor in written if tensor in names)
        self._stack.pop()

    def _blame(self) -> None:
        """Attribute what was written to all calls in progress."""
        for tensor in self._written.take():
            for _, written in self._stack:
                written[id(tensor)] = tensor


class _StorageNumbers:
    """A number for every storage, never used again; parameters, buffers and inputs have none."""

    def __init__(self, standing: list[Any]) -> None:
        self.sizes: list[int] = []
        self._numbers: dict[int, tuple[int, weakref.ref[Any] | None]] = {}
        self._standing = [
            tensor.untyped_storage()
            for tensor in standing
            if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided
        ]
        for storage in self._standing:
            self._numbers[key_of_storage(storage)] = (-1, None)

    def of(self, values: list[Any]) -> tuple[int, ...]:
        numbers = [
            self._number(value.untyped_storage())
            for value in values
            if isinstance(value, torch.Tensor) and value.layout is torch.strided
        ]
        return tuple(number for number in dict.fromkeys(numbers) if number >= 0)

    def _number(self, storage: torch.UntypedStorage) -> int:
        key = key_of_storage(storage)
        if key not in self._numbers:

            def gone(_: Any) -> None:
                self._numbers.pop(key, None)

            self._numbers[key] = (len(self.sizes), weakref.ref(storage, gone))
            self.sizes.append(storage.nbytes())
        return self._numbers[key][0]
