"""Fake tensors in the place of real ones, and what a step on them would hold."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Faker:
    """Takes real, meta and foreign fake tensors into one fake mode."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode
        self._made: dict[int, torch.Tensor] = {}
        self.saw_no_data = False

    def __call__(self, value: Any) -> Any:
        """The fake of a tensor, the same one every time; anything else as it is."""
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in self._made:
            if isinstance(value, FakeTensor) or value.device.type == "meta":
                self.saw_no_data = True
                self._made[id(value)] = self._from_no_data(value)
            else:
                self._made[id(value)] = self._mode.from_tensor(detached(value), static_shapes=True)
        return self._made[id(value)]

    def _from_no_data(self, value: torch.Tensor) -> torch.Tensor:
        device = value.fake_device if isinstance(value, FakeTensor) else value.device
        if device.type == "meta":
            device = torch.device("cpu")
        with self._mode:
            fake = torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device=device
            )
        if isinstance(value, torch.nn.Parameter):
            return torch.nn.Parameter(fake, requires_grad=value.requires_grad)
        return fake.requires_grad_(value.requires_grad)


def detached(value: Any) -> Any:
    """A tensor apart from the graph that made it, asking for gradients as before."""
    if not isinstance(value, torch.Tensor) or value.is_leaf:
        return value
    return value.detach().requires_grad_(value.requires_grad)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that come and go while it is on; those given are not counted.

    ``peak_bytes`` is the most that ``live_bytes`` was; set it to begin anew.
    """

    def __init__(self, resting: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen: dict[int, weakref.ref[Any]] = {}
        self.live_bytes = 0
        self.peak_bytes = 0
        self._resting = [
            t.untyped_storage()
            for t in resting
            if isinstance(t, torch.Tensor) and t.layout is torch.strided
        ]
        for storage in self._resting:
            self._seen[storage._cdata] = weakref.ref(storage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            # Sparse gradients have no storage of their own; what is in them was seen when made.
            if isinstance(value, torch.Tensor) and value.layout is torch.strided:
                self._see(value.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        num_bytes = storage.nbytes()
        self.live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

        def gone(_: Any) -> None:
            self._seen.pop(key, None)
            self.live_bytes -= num_bytes

        self._seen[key] = weakref.ref(storage, gone)


def holds_no_data(values: list[Any]) -> bool:
    """Whether there are fake or meta tensors among these."""
    return any(
        isinstance(value, FakeTensor)
        or (isinstance(value, torch.Tensor) and value.device.type == "meta")
        for value in values
    )


def distinct_bytes(values: list[Any]) -> int:
    """Bytes of the distinct storages under these tensors; other values count nothing."""
    sizes: dict[int, int] = {}
    for value in values:
        if isinstance(value, torch.Tensor) and value.layout is torch.strided:
            storage = value.untyped_storage()
            sizes[storage._cdata] = storage.nbytes()
    return sum(sizes.values())
