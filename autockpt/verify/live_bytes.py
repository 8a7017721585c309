"""Counts the bytes of the tensors that a step keeps alive."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from autockpt.torch_private.fakes import device_asked_for
from autockpt.torch_private.modes import TorchDispatchMode
from autockpt.torch_private.pytree import tree_leaves
from autockpt.torch_private.tensors import key_of_storage


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that are made while it is on, except those given.

    ``peak_bytes`` is the highest value of ``live_bytes``; set it to start again. Each storage
    counts as a whole number of units of ``unit_bytes``.
    """

    def __init__(self, resting: list[Any], *, unit_bytes: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._unit_bytes = unit_bytes
        self._seen: dict[int, weakref.ref[Any]] = {}
        self.live_bytes = 0
        self.peak_bytes = 0
        self._resting = [
            t.untyped_storage()
            for t in resting
            if isinstance(t, torch.Tensor) and t.layout is torch.strided
        ]
        for storage in self._resting:
            self._seen[key_of_storage(storage)] = weakref.ref(storage)

    def add(self, tensors: list[torch.Tensor]) -> None:
        """Counts these as if they were allocated now."""
        for tensor in tensors:
            if tensor.layout is torch.strided:
                self._see(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (device := device_asked_for(func, args)) is not None:
            return device
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            # Sparse gradients have no storage of their own; their parts were counted when made.
            if isinstance(value, torch.Tensor) and value.layout is torch.strided:
                self._see(value.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = key_of_storage(storage)
        if key in self._seen:
            return
        num_bytes = rounded_up(storage.nbytes(), self._unit_bytes)
        self.live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

        def gone(_: Any) -> None:
            self._seen.pop(key, None)
            self.live_bytes -= num_bytes

        self._seen[key] = weakref.ref(storage, gone)


def rounded_up(num_bytes: int, unit_bytes: int) -> int:
    """Returns bytes rounded up to a whole number of units."""
    return -(-num_bytes // unit_bytes) * unit_bytes


def distinct_bytes(values: list[Any], *, unit_bytes: int = 1) -> int:
    """Returns the bytes of the distinct storages under these tensors; other values are skipped.

    Each counts as a whole number of units of ``unit_bytes``.
    """
    sizes: dict[int, int] = {}
    for value in values:
        if isinstance(value, torch.Tensor) and value.layout is torch.strided:
            storage = value.untyped_storage()
            sizes[key_of_storage(storage)] = rounded_up(storage.nbytes(), unit_bytes)
    return sum(sizes.values())
