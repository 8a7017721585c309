"""Inputs of a forward, seen in one way by all who ask: tensors in containers and in objects.

Batches come as arguments, in lists and dicts, and in objects: dataclasses, named tuples, batches of
graphs with attributes and a dict of tensors. A tensor is a *leaf* wherever it is, and objects that
lead to no tensor are leaves themselves.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import io
import random
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from autockpt.torch_private.pytree import tree_flatten, tree_unflatten
from autockpt.torch_private.subclasses import is_in_name_only, plain

_CLOSED = (
    *(bool, int, float, complex, str, bytes, bytearray, type(None), enum.Enum, type, range, slice),
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType),
    *(torch.Tensor, torch.nn.Module, torch.dtype, torch.device, torch.Generator, torch.layout),
    *(np.ndarray, np.generic, np.random.Generator, np.random.RandomState, random.Random),
    *(weakref.ref, io.IOBase),
)
_MOST_LEVELS = 6  # of objects in objects
_MOST_PARTS = 10_000  # of one object that are looked at: it may hold a data set


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Inputs, taken apart.

    Attributes:
        leaves: Tensors, plain values, and objects that lead to no tensor.
        structure: What the inputs are made of, as a text that is equal for equal structures.
        in_object: For each leaf, whether it is an attribute of an object.
    """

    leaves: list[Any]
    structure: str
    in_object: list[bool]


def taken_apart(inputs: Any) -> Inputs:
    """Takes inputs apart."""
    found = Inputs(leaves=[], structure="", in_object=[])
    structure = _Walk(found).structure_of(inputs)
    return dataclasses.replace(found, structure=structure)


def input_leaves(inputs: Any) -> list[Any]:
    """The leaves of inputs."""
    return taken_apart(inputs).leaves


def mapped_inputs(function: Callable[[Any], Any], inputs: Any) -> Any:
    """Inputs of the same structure with other leaves; containers and objects are copied.

    Args:
        function: Returns what takes the place of a leaf.
        inputs: The inputs; they do not change.
    """
    return _Copies(function).of(inputs)


def plain_inputs(inputs: Any) -> tuple[frozenset[int], Any]:
    """The inputs with plain tensors for those of a subclass in name only, and which those are.

    Returns:
        Their numbers among the leaves, and the inputs; the same ones if there are none.
    """
    leaves = input_leaves(inputs)
    found = frozenset(number for number, leaf in enumerate(leaves) if is_in_name_only(leaf))
    if not found:
        return found, inputs
    made = {id(leaves[number]): plain(leaves[number]) for number in found}
    return found, mapped_inputs(lambda leaf: made.get(id(leaf), leaf), inputs)


class _Walk:
    def __init__(self, found: Inputs) -> None:
        self._found = found
        self._seen: dict[int, int] = {}

    def structure_of(self, value: Any, level: int = 0) -> str:
        leaves, structure = tree_flatten(value)
        texts = [str(structure)]
        for leaf in leaves:
            if not is_opened(leaf, level):
                self._found.leaves.append(leaf)
                self._found.in_object.append(level > 0)
            elif id(leaf) in self._seen:
                texts.append(f"again {self._seen[id(leaf)]}")
            else:
                self._seen[id(leaf)] = len(self._seen)
                texts.append(f"{type(leaf).__module__}.{type(leaf).__qualname__}")
                for name, part in parts_of(leaf):
                    texts.append(f"{name}={self.structure_of(part, level + 1)}")
        return f"({' '.join(texts)})"


class _Copies:
    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._made: dict[int, Any] = {}

    def of(self, value: Any, level: int = 0) -> Any:
        leaves, structure = tree_flatten(value)
        return tree_unflatten([self._copy(leaf, level) for leaf in leaves], structure)

    def _copy(self, leaf: Any, level: int) -> Any:
        if not is_opened(leaf, level):
            return self._function(leaf)
        if id(leaf) not in self._made:
            try:
                made = copy.copy(leaf)
            except Exception:  # noqa: BLE001 - whatever copying an object of yours raises
                return leaf
            self._made[id(leaf)] = made
            # What the copy holds, not the original: its own copying may have set it.
            for name, part in parts_of(made):
                _set_part(made, name, self.of(part, level + 1))
        return self._made[id(leaf)]


def is_opened(value: Any, level: int = 0) -> bool:
    """Whether a leaf of containers is an object that leads to tensors."""
    if level >= _MOST_LEVELS or isinstance(value, _CLOSED):
        return False
    pending = collections.deque([(value, level)])
    seen: set[int] = set()
    while pending and len(seen) < _MOST_PARTS:
        current, depth = pending.popleft()
        for leaf in tree_flatten(current)[0]:
            if isinstance(leaf, torch.Tensor):
                return True
            if depth < _MOST_LEVELS and not isinstance(leaf, _CLOSED) and id(leaf) not in seen:
                seen.add(id(leaf))
                pending.extend((part, depth + 1) for _, part in parts_of(leaf))
    return False


def parts_of(value: Any) -> list[tuple[Any, Any]]:
    """What an object holds: its attributes, and its items if it is a dict or a list."""
    parts: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        parts += [(_Item(key), part) for key, part in value.items()]
    elif isinstance(value, list):
        parts += [(_Item(number), part) for number, part in enumerate(value)]
    parts += getattr(value, "__dict__", {}).items()
    parts += [(name, getattr(value, name)) for name in _slots(type(value)) if hasattr(value, name)]
    return parts


@dataclasses.dataclass(frozen=True, slots=True)
class _Item:
    """The key of an item of a dict or a list."""

    key: Any


def _set_part(owner: Any, name: Any, part: Any) -> None:
    if isinstance(name, _Item):
        (dict if isinstance(owner, dict) else list).__setitem__(owner, name.key, part)
    elif name in getattr(owner, "__dict__", {}):
        owner.__dict__[name] = part  # also if the class is frozen, or computes on what is set
    else:
        object.__setattr__(owner, name, part)


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        names = (slots,) if isinstance(slots, str) else slots
        yield from (name for name in names if name not in ("__dict__", "__weakref__"))
