"""Tensors and their storages: which storage a tensor uses, and whether it was written.

Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable

import torch
from torch._C import _storage_Use_Count
from torch._prims_common import suggest_memory_format
from torch.multiprocessing.reductions import StorageWeakRef

__all__ = [
    "StorageWatch",
    "has_step_in_backward",
    "is_held_by_code",
    "key_of_storage",
    "set_write_counts",
    "storage_key",
    "suggest_memory_format",
    "write_count",
]


def key_of_storage(storage: torch.UntypedStorage) -> int:
    """A number that no other storage has while this one is alive."""
    key: int = storage._cdata
    return key


def storage_key(tensor: torch.Tensor) -> int:
    """The key of a tensor's storage: equal for tensors that share memory."""
    return key_of_storage(tensor.untyped_storage())


class StorageWatch:
    """Watches a tensor's storage without keeping it alive.

    Attributes:
        num_bytes: Its size.
        key: Its key, while it is alive.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self.num_bytes = storage.nbytes()
        self.key = storage._cdata
        self._weak = StorageWeakRef(storage)

    @property
    def num_owners(self) -> int:
        """How many tensors use it; a saved one counts as well."""
        if self._weak.expired():
            return 0
        # One is Python's own object for the storage.
        return int(_storage_Use_Count(self._weak.cdata)) - 1


def is_held_by_code(reference: weakref.ref[torch.Tensor]) -> bool:
    """Whether Python code holds a tensor: a graph that has saved it keeps it alive as well."""
    tensor = reference()
    if tensor is None:
        return False
    ours = torch.empty(0)  # held by one variable, as `tensor` is here
    # A tensor that anything in C++ holds has one reference more to its object.
    by_torch = int(tensor._use_count() > 1)  # type: ignore[attr-defined]
    return sys.getrefcount(tensor) - by_torch > sys.getrefcount(ours)


def write_count(tensor: torch.Tensor) -> int:
    """How often a tensor, or a view of it, was written in place. Inference tensors have none."""
    return tensor._version


def set_write_counts(counts: Iterable[tuple[torch.Tensor, int]]) -> None:
    """Set what `write_count` returns, after writes that have been undone."""
    for tensor, count in counts:
        torch._C._autograd._unsafe_set_version_counter((tensor,), (count,))


def has_step_in_backward(parameter: torch.Tensor) -> bool:
    """Whether hooks run as soon as a parameter's gradient is complete."""
    return bool(getattr(parameter, "_post_accumulate_grad_hooks", None))
