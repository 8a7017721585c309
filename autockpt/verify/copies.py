"""Copies of inputs that keep strides and shared storages."""

from __future__ import annotations

from typing import Any

import torch

from autockpt.torch_private.subclasses import (
    computes_itself,
    is_subclass,
    without_behaviour,
)
from autockpt.torch_private.tensors import key_of_storage
from autockpt.verify.inputs import mapped_inputs


def own_copies(inputs: Any) -> Any:
    """Copies inputs: a forward may write into them, and a backward may reach what made them."""
    storages: dict[int, torch.UntypedStorage] = {}
    copies: dict[int, torch.Tensor] = {}

    def own(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            return value
        if id(value) in copies:
            return copies[id(value)]
        if computes_itself(value):
            return copies.setdefault(id(value), _by_itself(value))
        # Whole storages are copied, so that strides and sharing, and with them the graph, are kept.
        storage = value.untyped_storage()
        copy = storages.setdefault(key_of_storage(storage), storage.clone())
        with torch.no_grad():
            tensor = torch.empty(0, dtype=value.dtype, device=value.device)
            tensor.set_(copy, value.storage_offset(), value.shape, value.stride())
            if is_subclass(value):
                tensor = tensor.as_subclass(type(value))
                vars(tensor).update(vars(value))
        if value.is_leaf or not value.requires_grad:
            tensor.requires_grad_(value.requires_grad)
        else:  # the output of another layer may be overwritten; a leaf may not
            source = torch.zeros((), requires_grad=True)
            with torch.enable_grad():
                tensor = _Made.apply(source, tensor)  # type: ignore[no-untyped-call]
            tensor.retain_grad()
        copies[id(value)] = tensor
        return tensor

    with without_behaviour():
        return mapped_inputs(own, inputs)


def _by_itself(value: torch.Tensor) -> torch.Tensor:
    """A copy of a tensor whose class runs operators itself, as that class makes copies."""
    copy = value.detach().clone()
    return copy.requires_grad_(value.requires_grad) if type(copy) is type(value) else value


class _Made(torch.autograd.Function):
    """Makes a tensor look computed; nothing is saved for its backward."""

    @staticmethod
    def forward(ctx: Any, source: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Returns the value."""
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None]:
        """Passes no gradient on."""
        return None, None
