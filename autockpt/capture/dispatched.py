"""Record a training step as PyTorch dispatches it, for a device that is not here.

Nothing of such a step can run, so it needs no graph that runs: every operator that an eager step on
fake tensors calls is noted, with the storages that it reads and makes. That takes a tenth of the
time of tracing, and works for any Python code.
"""

from __future__ import annotations

import contextlib
import operator
import weakref
from collections.abc import Iterator
from typing import Any

import torch
import torch.fx as fx

from autockpt.capture.assembled import Assembly, Layout, Operation
from autockpt.capture.captured import Keys
from autockpt.capture.source_lines import note_line, running_line
from autockpt.capture.traced_step import TracedStep
from autockpt.torch_private.autograd import next_sequence_number, running_sequence_number
from autockpt.torch_private.fakes import device_asked_for
from autockpt.torch_private.modes import TorchDispatchMode
from autockpt.torch_private.modules import entered_and_left
from autockpt.torch_private.operators import (
    aten,
    base_name,
    functional_form,
    is_empty_operator,
    writes_in_place,
    written_tensors,
)
from autockpt.torch_private.pytree import tree_leaves, tree_map
from autockpt.torch_private.tensors import key_of_storage

# A module's path, whether that is code outside of the model, and the file and line of code.
_Place = tuple[str, bool, tuple[str, int] | None]
_NOWHERE: _Place = ("", False, None)


class StepRecorder(TorchDispatchMode):
    """Notes the operators of one step; storages are numbered, and again when they are written.

    A storage that is written in place is a new one from then on: a plan may keep or make again
    either of both.
    """

    def __init__(self, module: torch.nn.Module, externals: list[torch.Tensor]) -> None:
        """Start with what is there before the step.

        Args:
            module: The model; its submodules give operators their places.
            externals: Parameters, buffers and inputs.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = fx.Graph()
        self._operations: list[Operation] = []
        self._size_bytes: list[int] = []
        # By key of a storage that is alive: its number, and what removes it.
        self._numbers: dict[int, tuple[int, weakref.ref[Any] | None]] = {}
        self._nodes: dict[Layout, fx.Node] = {}
        self._writers: dict[int, fx.Node] = {}
        self._inputs: list[tuple[fx.Node, int]] = []
        self._mutated: set[int] = set()
        self._paths = {id(m): name for name, m in module.named_modules()}
        self._stack: list[str] = []
        self._places: dict[int, _Place] = {}
        self._is_backward = False
        self._is_outside = False
        self._output_keys: Keys = ()
        self._loss_keys: Keys = ()
        self._gradients: dict[int, tuple[int, ...]] = {}
        for tensor in externals:
            self._number_of(tensor)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record while it is on, and note which module's forward runs."""
        with entered_and_left(self._enter, self._leave), self:
            yield

    def _enter(self, module: torch.nn.Module) -> None:
        self._stack.append(self._paths.get(id(module), self._stack[-1] if self._stack else ""))

    def _leave(self, _: torch.nn.Module) -> None:
        self._stack.pop()

    def leave_the_model(self) -> None:
        """What follows in the forward is code outside of the model."""
        self._note_place()
        self._is_outside = True

    def end_forward(self, output: list[Any], loss: list[Any]) -> None:
        """The backward follows.

        Args:
            output: The leaves of what the forward has returned.
            loss: What the backward starts from.
        """
        self._output_keys = tuple(self.keys_of(leaf) for leaf in output)
        self._loss_keys = tuple(self.keys_of(leaf) for leaf in loss)
        self._is_backward = True

    def end_backward(self, trained: list[torch.Tensor]) -> None:
        """The step has ended; these may have gradients."""
        for tensor in trained:
            if tensor.grad is not None:
                self._gradients[self._number_of(tensor)] = self.keys_of(tensor.grad)

    def keys_of(self, value: Any) -> tuple[int, ...]:
        """The number of a tensor's storage as a 1-tuple; an empty tuple for anything else."""
        return (self._number_of(value),) if _is_strided(value) else ()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (device := device_asked_for(func, args)) is not None:
            return device
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        results = [t for t in tree_leaves(result) if _is_strided(t)]
        if func is aten.set_.source_Tensor:
            pass  # the tensor is on another storage from now on, and nothing is written
        elif writes_in_place(func):
            self._note_write(func, args, kwargs, results)
        elif any(self._key_of(t) not in self._numbers for t in results):
            self._note(func, args, kwargs, result, results)
        return result

    def _note(
        self, func: Any, args: Any, kwargs: Any, result: Any, results: list[torch.Tensor]
    ) -> None:
        """Note an operator that makes new storages."""
        node, reads = self._call(func, args, kwargs)
        self._finish(node, reads, self._begin_new(results), result)

    def _begin_new(self, results: list[torch.Tensor]) -> tuple[int, ...]:
        """Number the storages among these that are new."""
        return tuple(self._begin(t) for t in results if self._key_of(t) not in self._numbers)

    def _note_write(self, func: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> None:
        """Note an operator that writes into its arguments."""
        written = [t for t in written_tensors(func, args, kwargs) if _is_strided(t)]
        own = {self._number_of(t): t for t in written}
        external = [storage for storage in own if storage in self._external]
        target = func if external else functional_form(func) or func
        node, reads = self._call(target, args, kwargs)
        self._mutated.update(external)
        fresh = {s for s in own if self._is_fresh(s)}
        reads = tuple(storage for storage in reads if storage not in fresh)
        writes = []
        for storage, tensor in own.items():
            if storage not in external:
                writes.append(self._begin(tensor))
                self._writers[writes[-1]] = node
        writes += self._begin_new(results)
        value = results[0] if len(results) == 1 else tuple(results or written)
        self._finish(node, reads, tuple(writes), value)

    def _is_fresh(self, storage: int) -> bool:
        """Whether nothing has been written to a storage since its memory was taken."""
        writer = self._writers.get(storage)
        return writer is not None and is_empty_operator(writer.target)

    @property
    def _external(self) -> set[int]:
        return {storage for _, storage in self._inputs}

    def _call(self, func: Any, args: Any, kwargs: Any) -> tuple[fx.Node, tuple[int, ...]]:
        """The node of a call, and the storages of the step that it reads."""
        reads: dict[int, None] = {}

        def of(value: Any) -> Any:
            if not _is_strided(value):
                return None if isinstance(value, torch.Tensor) else value
            storage = self._number_of(value)
            reads[storage] = None
            return self._node_of(value, storage)

        node_args, node_kwargs = tree_map(of, (tuple(args), dict(kwargs)))
        node = self._graph.create_node(
            "call_function", func, _plain(node_args), _plain(node_kwargs), name=base_name(func)
        )
        return node, tuple(reads)

    def _finish(
        self, node: fx.Node, reads: tuple[int, ...], writes: tuple[int, ...], value: Any
    ) -> None:
        self._register(node, value)
        path, is_outside, line = self._place()
        node.meta["nn_module_stack"] = {"": (path, None)}
        note_line(node, line)
        self._operations.append(
            Operation(
                node=node,
                is_backward=self._is_backward,
                is_outside=is_outside,
                reads=reads,
                writes=writes,
            )
        )

    def _register(self, node: fx.Node, value: Any) -> None:
        """Let a node, or the items of what it returns, stand for tensors from now on."""
        node.meta["layouts"] = tree_map(self._layout_or_value, value)
        if _is_strided(value):
            storage = self._number_of(value)
            self._nodes[self._layout(value, storage)] = self._writers[storage] = node
        elif isinstance(value, (tuple, list)):
            for at, item in enumerate(value):
                if _is_strided(item) or isinstance(item, (tuple, list)):
                    self._register(self._graph.call_function(operator.getitem, (node, at)), item)

    def _place(self) -> _Place:
        """The place of an operator.

        An operator of the backward belongs to the place of the forward's operator that it is for.
        """
        if self._is_backward:
            running = running_sequence_number()
            return _NOWHERE if running is None else self._places.get(running, _NOWHERE)
        return self._note_place()

    def _note_place(self) -> _Place:
        """Note where the forward is for the backward of its latest operator."""
        module = self._stack[-1] if self._stack else ""
        place = (module, self._is_outside, running_line())
        # Not for an operator without a backward: the latest one that has one ran elsewhere.
        self._places.setdefault(next_sequence_number() - 1, place)
        return place

    def _node_of(self, tensor: torch.Tensor, storage: int) -> fx.Node:
        """The node of a tensor; a view gets one when it is first read."""
        layout = self._layout(tensor, storage)
        if layout not in self._nodes:
            _, shape, strides, offset, _ = layout
            node = self._graph.call_function(
                aten.as_strided.default, (self._writers[storage], shape, strides, offset)
            )
            node.meta["layouts"] = layout
            self._nodes[layout] = node
        return self._nodes[layout]

    def _layout_or_value(self, value: Any) -> Any:
        return self._layout(value, self._number_of(value)) if _is_strided(value) else value

    def _layout(self, tensor: torch.Tensor, storage: int) -> Layout:
        shape, strides = tuple(tensor.shape), tuple(tensor.stride())
        return storage, shape, strides, int(tensor.storage_offset()), tensor.dtype

    def _key_of(self, tensor: torch.Tensor) -> int:
        return key_of_storage(tensor.untyped_storage())

    def _number_of(self, tensor: torch.Tensor) -> int:
        """The number of a tensor's storage; what no operator has made is an input."""
        key = self._key_of(tensor)
        if key not in self._numbers:
            storage = self._begin(tensor)
            node = self._graph.placeholder(f"primals_{len(self._inputs)}")
            node.meta["layouts"] = layout = self._layout(tensor, storage)
            self._nodes[layout] = self._writers[storage] = node
            self._inputs.append((node, storage))
        return self._numbers[key][0]

    def _begin(self, tensor: torch.Tensor) -> int:
        """Give a storage a new number."""
        storage = tensor.untyped_storage()
        key, number = key_of_storage(storage), len(self._size_bytes)
        self._size_bytes.append(storage.nbytes())

        def gone(_: Any, number: int = number) -> None:
            if self._numbers.get(key, (None,))[0] == number:
                del self._numbers[key]

        self._numbers[key] = number, weakref.ref(storage, gone)
        return number

    def finish(self) -> TracedStep:
        """The graph of the step."""
        return Assembly(
            graph=self._graph,
            operations=self._operations,
            size_bytes=tuple(self._size_bytes),
            inputs=self._inputs,
            writers=self._writers,
            mutated=frozenset(self._mutated),
        ).recorded(
            self._output_keys,
            self._loss_keys,
            tuple(self._gradients.get(storage, ()) for _, storage in self._inputs),
        )


def _is_strided(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided


def _plain(value: Any) -> Any:
    """Arguments as a graph takes them: sizes and other sequences as lists and tuples."""
    if isinstance(value, fx.Node):
        return value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
