"""Calls that pass an optimized forward by: they are noticed, and followed where they go."""

from __future__ import annotations

import types

import pytest
import torch
from loops import Blocks, batches
from torch import nn

import autockpt

(X,) = batches(1)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Blocks()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).square().mean()


def _optimized(model: nn.Module) -> nn.Module:
    return autockpt.optimize(model, "75%", optimizer="sgd", method="greedy")


def test_a_method_beside_the_forward_is_followed_to_the_part_that_trains() -> None:
    """A LightningModule whose training_step calls a part of it was never planned, nor told."""
    model = _optimized(Wrapped())
    with pytest.warns(UserWarning, match="another method was called.*plans its part net"):
        model.training_step(X).backward()
    assert autockpt.get_plan(model) is None
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.zero_grad()
    model.training_step(X).backward()
    plan = autockpt.get_plan(model)
    assert plan.rung == "whole"
    assert plan.recompute_ns > 0
    autockpt.restore(model)
    assert "forward" not in model.net.__dict__
    assert autockpt.get_plan(model) is None


def test_the_backward_of_a_forward_before_optimize_passes_nothing_by() -> None:
    """It was told as another method, and the part that trains was planned in its place."""
    model = Wrapped()
    waiting = model(X).square().mean()
    _optimized(model)
    waiting.backward()
    assert "forward" not in model.net.__dict__
    del waiting
    with pytest.warns(UserWarning, match="another method was called.*plans its part net"):
        model.training_step(X).backward()


def test_a_graph_from_before_optimize_may_have_several_backwards() -> None:
    """The second backward of a retained graph was told as another method."""
    model = Wrapped()
    waiting = model(X).square().mean()
    _optimized(model)
    for _ in range(2):
        waiting.backward(retain_graph=True)
    waiting.backward()
    assert "forward" not in model.net.__dict__
    with pytest.warns(UserWarning, match="another method was called.*plans its part net"):
        model.training_step(X).backward()


def test_a_forward_that_replaces_ours_is_planned() -> None:
    model = _optimized(Wrapped())

    def own(self: Wrapped, x: torch.Tensor) -> torch.Tensor:
        return self.net(2 * x).square().mean()

    model.forward = types.MethodType(own, model)
    with pytest.warns(UserWarning, match="its forward was replaced"):
        model(X).backward()
    model.zero_grad()
    loss = model(X)
    loss.backward()
    assert autockpt.get_plan(model).rung == "whole"
    autockpt.restore(model)
    assert torch.equal(model(X).detach(), own(model, X).detach()) or model.training


def test_compiling_an_optimized_model_is_told() -> None:
    model = _optimized(Blocks())
    compiled = torch.compile(model, backend="aot_eager")
    with pytest.warns(UserWarning, match=r"torch\.compile runs its forward"):
        compiled(X).sum().backward()


def test_what_is_followed_is_not_told() -> None:
    model = _optimized(Wrapped())
    model(X).sum().backward()
    assert not any(p._backward_hooks for p in model.parameters())
    model = _optimized(Wrapped())
    autockpt.restore(model)
    assert not any(p._backward_hooks for p in model.parameters())
    model.training_step(X).backward()
