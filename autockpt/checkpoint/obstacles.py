"""Side effects of a submodule's call, which decide whether it can be recomputed.

Buffers that it writes can be restored for the second run. Attributes that it changes, inputs that
it overwrites, and objects that it receives and could fill cannot.
"""

from __future__ import annotations

import enum
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch

from autockpt.torch_private.modes import TorchDispatchMode
from autockpt.torch_private.modules import has_hooks
from autockpt.torch_private.operators import arguments_of, is_written, writes_in_place
from autockpt.torch_private.pytree import tree_leaves
from autockpt.torch_private.tensors import write_count
from autockpt.verify.object_walk import AttributeWatch

_PLAIN = (bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device, type(None))
_KNOWN = (*_PLAIN, torch.Tensor, torch.layout, torch.memory_format, slice, range, type)


class WrittenTensors:
    """Finds which of these tensors were written since the last look.

    It compares the values of buffers, because ``buffer.data.mul_()`` leaves no other trace, and the
    versions of parameters.
    """

    def __init__(self, *, buffers: Iterable[torch.Tensor], parameters: Iterable[torch.Tensor]):
        self._tensors = [*buffers, *parameters]
        self._versions = [write_count(tensor) for tensor in self._tensors]
        self._values = [(buffer, buffer.detach().clone()) for buffer in buffers]

    def take(self) -> list[torch.Tensor]:
        """The tensors written since the last call."""
        written: dict[int, torch.Tensor] = {}
        versions = [write_count(tensor) for tensor in self._tensors]
        for tensor, version, before in zip(self._tensors, versions, self._versions, strict=True):
            if version != before:
                written[id(tensor)] = tensor
        self._versions = versions
        for buffer, value in self._values:
            if not torch.equal(buffer, value):
                value.copy_(buffer)
                written[id(buffer)] = buffer
        return list(written.values())


class WritesSeen(TorchDispatchMode):
    """Reports the tensors that an operator is about to write, by its schema."""

    def __init__(self, tell: Callable[[list[torch.Tensor]], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tell = tell

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if writes_in_place(func):
            given = dict(zip((a.name for a in arguments_of(func)), args, strict=False)) | kwargs
            written = [
                given.get(argument.name) for argument in arguments_of(func) if is_written(argument)
            ]
            self._tell([leaf for leaf in tree_leaves(written) if isinstance(leaf, torch.Tensor)])
        return func(*args, **kwargs)


class CallWatch:
    """Watches one call, from its beginning."""

    def __init__(self, module: torch.nn.Module, inputs: Any) -> None:
        leaves = tree_leaves(inputs)
        self._module = module
        self._attributes = AttributeWatch(module)
        self._inputs = [
            (weakref.ref(leaf), write_count(leaf))
            for leaf in leaves
            if isinstance(leaf, torch.Tensor) and not leaf.is_inference()
        ]
        self._strange = [leaf for leaf in leaves if not isinstance(leaf, _KNOWN)]

    def obstacle(self) -> str:
        """Why the call that has just ended cannot be recomputed; empty if it can."""
        if self._strange:
            return f"it receives a {type(self._strange[0]).__name__}, which may change"
        if any(m is not self._module and has_hooks(m) for m in self._module.modules()):
            return "modules inside it have forward hooks"
        if self._attributes.has_changed():
            return "it changes attributes of its modules"
        return self.written_inputs()

    def written_inputs(self) -> str:
        """The obstacle of an input that was overwritten, then or later; empty if none was."""
        for reference, version in self._inputs:
            tensor = reference()
            if tensor is not None and write_count(tensor) != version:
                return "one of its inputs is overwritten"
        return ""
