"""Copies of inputs with the same strides and sharing."""

from __future__ import annotations

from typing import Any

import torch

from autockpt.torch_private.pytree import tree_map
from autockpt.torch_private.tensors import key_of_storage


def own_copies(inputs: Any) -> Any:
    """Copies of inputs: a forward may write into them, a backward run into their makers."""
    storages: dict[int, torch.UntypedStorage] = {}
    copies: dict[int, torch.Tensor] = {}

    def own(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            return value
        if id(value) in copies:
            return copies[id(value)]
        # Whole storages are copied: strides and sharing stay, and with them the plan's graph.
        storage = value.untyped_storage()
        copy = storages.setdefault(key_of_storage(storage), storage.clone())
        with torch.no_grad():
            tensor = torch.empty(0, dtype=value.dtype, device=value.device)
            tensor.set_(copy, value.storage_offset(), value.shape, value.stride())
        if value.is_leaf or not value.requires_grad:
            tensor.requires_grad_(value.requires_grad)
        else:  # what another layer made may be overwritten, as no leaf may
            source = torch.zeros((), requires_grad=True)
            with torch.enable_grad():
                tensor = _Made.apply(source, tensor)  # type: ignore[no-untyped-call]
            tensor.retain_grad()
        copies[id(value)] = tensor
        return tensor

    return tree_map(own, inputs)


class _Made(torch.autograd.Function):
    """A tensor as something that was computed; nothing is kept for its backward."""

    @staticmethod
    def forward(ctx: Any, source: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """The value."""
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None]:
        """Nothing goes on."""
        return None, None
