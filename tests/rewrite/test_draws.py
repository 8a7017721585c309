"""Draws that only a backward reads: they move the generator when eager's do, and not later."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import autockpt


class _DrawsForItsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        ctx.save_for_backward(torch.rand(32))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        factors: torch.Tensor = ctx.saved_tensors[0]
        return gradients[0] * factors


class _Model(nn.Module):
    def __init__(self, *, ends_with_it: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(32, 32), nn.GELU()) for _ in range(6))
        )
        self.ends_with_it = ends_with_it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = _DrawsForItsBackward.apply(self.layers(x))
        return y if self.ends_with_it else nn.functional.dropout(y.sin(), 0.5)


@pytest.mark.parametrize("ends_with_it", [True, False])
def test_a_forward_draws_for_its_backward_in_the_forward(ends_with_it: bool) -> None:
    """Nothing in the forward needed it, so it was drawn when the backward read it first: what was
    drawn in between had other bits, which only verification noticed."""
    torch.manual_seed(0)
    model, x = _Model(ends_with_it=ends_with_it), torch.randn(512, 32)
    optimized = copy.deepcopy(model)
    autockpt.optimize(
        optimized,
        "70%",
        sample_args=(x,),
        loss_fn=lambda y: y.square().mean(),
        verify=False,
        method="greedy",
    )
    results = []
    for trained in (model, optimized):
        torch.manual_seed(7)
        y = trained(x)
        between = torch.rand(3)
        y.square().mean().backward()
        gradients = [p.grad for p in trained.parameters()]
        results.append([y, between, torch.rand(3), *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
