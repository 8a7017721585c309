"""Compares two steps bit for bit."""

from __future__ import annotations

import torch

from autockpt.verify.random_state import (
    same_states,
)
from autockpt.verify.step import StepRecord


def differences(expected: StepRecord, got: StepRecord) -> tuple[str, ...]:
    """Returns the names of what is not equal bit for bit."""
    names = [
        name
        for name, tensor in expected.tensors.items()
        if not same_bits(tensor, got.tensors.get(name))
        or type(tensor) is not type(got.tensors.get(name))
    ]
    if not same_states(expected.random_states, got.random_states):
        names.append("random state")
    return tuple(names)


def same_bits(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    """Whether two tensors are equal bit for bit: NaN equals itself, 0.0 and -0.0 differ."""
    if left is None or right is None:
        return left is None and right is None
    if left.dtype != right.dtype or left.shape != right.shape or left.layout != right.layout:
        return False
    if left.layout is not torch.strided:
        left, right = left.to_dense(), right.to_dense()
    return torch.equal(_bytes_of(left), _bytes_of(right))


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8)
