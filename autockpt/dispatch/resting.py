"""What a model has in memory beside activations."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from autockpt.torch_private.tensors import storage_key


@dataclasses.dataclass(slots=True, kw_only=True)
class Resting:
    """Bytes that a model has in memory beside activations.

    Attributes:
        storages: Those of parameters, buffers and inputs, by storage.
        gradients: Those of the gradients that there are, by parameter.
        trained: Those of the gradients that a step makes, by parameter.
    """

    storages: dict[int, int]
    gradients: dict[int, int]
    trained: dict[int, int]

    @classmethod
    def of(cls, module: torch.nn.Module, inputs: dict[int, int]) -> Resting:
        """What a module has in memory now, with the bytes of its inputs."""
        parameters = list(module.parameters())
        return cls(
            storages=inputs | sizes_of([*parameters, *module.buffers()]),
            gradients={id(p): p.nbytes for p in parameters if p.grad is not None},
            trained={id(p): p.nbytes for p in parameters if p.requires_grad},
        )


def has_storage(value: Any) -> bool:
    """Whether a value is a tensor with a storage of its own or of others."""
    return isinstance(value, torch.Tensor) and value.layout is torch.strided


def sizes_of(values: list[Any]) -> dict[int, int]:
    """Bytes by storage; values that are no tensors are skipped."""
    tensors = [value for value in values if has_storage(value)]
    return {storage_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}


def beyond(own: dict[int, int], theirs: list[dict[int, int]]) -> int:
    """The sum of what is in any of theirs, and not in one's own."""
    all_theirs: dict[int, int] = {}
    for each in theirs:
        all_theirs |= each
    return sum(num_bytes for key, num_bytes in all_theirs.items() if key not in own)
