"""Subclasses of `torch.Tensor` among inputs: those that are a name, and those that act.

A subclass that overrides nothing computes as a tensor does, and what is computed from it has its
type. So graphs can take plain tensors in its place. Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, get_default_nowrap_functions

from autockpt.torch_private.fakes import FakeTensor
from autockpt.torch_private.pytree import tree_leaves

_MARK = "autockpt_input"
# What a class may define without computing anything: how it is made, shown and stored.
_HARMLESS = frozenset(
    {
        *("__module__", "__doc__", "__dict__", "__weakref__", "__slots__", "__annotations__"),
        *("__new__", "__init__", "__init_subclass__", "__class_getitem__", "__orig_bases__"),
        *("__parameters__", "__qualname__", "__repr__", "__str__", "__format__", "__hash__"),
        *("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__deepcopy__"),
        *("__static_attributes__", "__firstlineno__", "__annotate__", "__annotate_func__"),
        *("__annotations_cache__", "__conditional_annotations__"),
    }
)


def is_subclass(value: Any) -> bool:
    """Whether a value is of a subclass of `torch.Tensor` that is not one of torch's usual ones."""
    usual = (torch.nn.Parameter, torch.nn.Buffer, FakeTensor)
    return (
        isinstance(value, torch.Tensor)
        and type(value) is not torch.Tensor
        and not isinstance(value, usual)
    )


def is_in_name_only(value: Any) -> bool:
    """Whether a value is of a subclass without behaviour of its own."""
    kind: Any = type(value)
    return is_subclass(value) and _overrides_nothing(kind)


@functools.cache
def _overrides_nothing(kind: Any) -> bool:
    own = kind.__mro__[: kind.__mro__.index(torch.Tensor)]
    names = {name for base in own for name in vars(base)} - _HARMLESS
    return not any(hasattr(torch.Tensor, name) for name in names)


def computes_itself(value: torch.Tensor) -> bool:
    """Whether a tensor's class runs operators itself, so that its memory may be elsewhere."""
    return type(value).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def plain(value: torch.Tensor) -> torch.Tensor:
    """The same memory as a plain tensor."""
    return value.as_subclass(torch.Tensor)


def without_behaviour() -> contextlib.AbstractContextManager[Any]:
    """Let operations on tensors of subclasses be those of plain tensors."""
    return torch._C.DisableTorchFunctionSubclass()


class TypesFollowed(TorchFunctionMode):
    """Follows which tensors would be of a subclass that an input is of, though all are plain."""

    def __init__(self, inputs: Mapping[int, torch.Tensor]) -> None:
        """Begin with the inputs of subclasses, by their number among the leaves."""
        super().__init__()
        for number, tensor in inputs.items():
            setattr(tensor, _MARK, number)
        self._inputs = inputs

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        marks = [getattr(leaf, _MARK, None) for leaf in tree_leaves((args, kwargs))]
        found = [mark for mark in marks if mark is not None]
        result = func(*args, **kwargs)
        if found and func not in get_default_nowrap_functions():
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    setattr(leaf, _MARK, found[0])
        return result

    def of(self, value: Any) -> int | None:
        """The number of the input whose type a tensor would have; None if it would be plain."""
        number: int | None = getattr(value, _MARK, None)
        return number
