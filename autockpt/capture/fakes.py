"""Fake tensors in the place of real ones, and what a step on them would hold."""

from __future__ import annotations

from typing import Any

import torch

from autockpt.torch_private.fakes import FakeTensor, FakeTensorMode


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


def holds_no_data(values: list[Any]) -> bool:
    """Whether there are fake or meta tensors among these."""
    return any(
        isinstance(value, FakeTensor)
        or (isinstance(value, torch.Tensor) and value.device.type == "meta")
        for value in values
    )
