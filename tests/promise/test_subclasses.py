"""Inputs of subclasses of `torch.Tensor`, as image and medical libraries hand them over.

They ended in a raw TypeError of torch, even if the subclass did nothing of its own.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import autockpt
from autockpt.dispatch.layout import layout_of
from autockpt.torch_private.subclasses import is_in_name_only, is_subclass

X = torch.randn(8, 3, 24, 24, generator=torch.Generator().manual_seed(0))


class Image(torch.Tensor):
    """Has attributes, and nothing that acts."""

    def __new__(cls, data: torch.Tensor, spacing: float = 1.0) -> Image:  # noqa: PYI034
        made = data.as_subclass(cls)
        made.spacing = spacing
        return made

    def __repr__(self) -> str:
        return f"Image({self.spacing})"


class Counted(torch.Tensor):
    """Sees every operation."""

    num_seen = 0

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        Counted.num_seen += 1
        return super().__torch_function__(func, types, args, kwargs or {})


class Wrapped(torch.Tensor):
    """Runs operators on a tensor inside of it."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Wrapped:  # noqa: PYI034
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken = [arg.inner if isinstance(arg, Wrapped) else arg for arg in args]
        return func(*taken, **(kwargs or {}))


class Network(nn.Sequential):
    """Returns what depends on its input, and what does not."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        parts = ((nn.Conv2d(3 if k == 0 else 8, 8, 3, 1, 1), nn.ReLU()) for k in range(5))
        super().__init__(*[nn.Sequential(*part, nn.BatchNorm2d(8)) for part in parts])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": super().forward(x), "size": self[0][0].weight.square().sum()}


def loss_of(output: dict[str, torch.Tensor]) -> torch.Tensor:
    return output["features"].square().mean() + output["size"]


def step(model: nn.Module, x: torch.Tensor) -> list[Any]:
    output = model(x)
    loss_of(output).backward()
    found = [*output.values(), *(p.grad for p in model.parameters()), *model.buffers(), x.grad]
    return [*found, *map(type, found)]


def compared(make: Callable[[], torch.Tensor], budget: str) -> tuple[autockpt.Plan, list[str]]:
    model = Network().train()
    expected = step(copy.deepcopy(model), make())
    autockpt.optimize(model, budget, optimizer="sgd", loss_fn=loss_of, method="greedy")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = step(model, make())
    for left, right in zip(expected, got, strict=True):
        is_tensor = isinstance(left, torch.Tensor)
        assert torch.equal(left.cpu(), right.cpu()) if is_tensor else left == right
    return autockpt.get_plan(model), [str(warning.message) for warning in caught]


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_subclass_in_name_only_is_planned(requires_grad: bool) -> None:
    """What is computed from it has its type, as in eager, and nothing else has."""
    plan, said = compared(lambda: Image(X.clone()).requires_grad_(requires_grad), "85%")
    assert said == []
    assert plan.rung == "whole"
    assert plan.recompute_ns > 0
    assert plan.measured_peak_bytes <= plan.budget_bytes


def test_a_subclass_that_acts_runs_on_a_lower_rung() -> None:
    plan, said = compared(lambda: X.clone().as_subclass(Counted), "85%")
    assert plan.rung == "checkpoint"
    assert len(said) == 1
    assert len(said[0].splitlines()) <= 3


def test_a_subclass_that_runs_operators_itself_is_no_raw_error() -> None:
    model = Network().train()
    autockpt.optimize(model, "100%", optimizer="sgd", loss_fn=loss_of, method="greedy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss_of(model(Wrapped(X.clone()))).backward()
    assert autockpt.get_plan(model).rung in ("checkpoint", "eager")


def test_types_are_told_apart() -> None:
    image, counted = Image(X), X.as_subclass(Counted)
    assert is_in_name_only(image)
    assert not is_in_name_only(counted)
    assert not any(map(is_subclass, (X, nn.Parameter(X), nn.Buffer(X))))
    assert layout_of((image,), {}) != layout_of((X,), {})
    assert layout_of((nn.Parameter(X, requires_grad=False),), {}) == layout_of((X,), {})
