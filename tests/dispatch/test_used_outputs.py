"""Loops whose backward starts from other outputs of the forward than the first plan takes it to."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from training import assert_same_gradients

import autockpt
from autockpt.verify.peak import measure_peak_bytes

X = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)) for _ in range(2))
        )
        self.left, self.right = nn.Linear(16, 1), nn.Linear(16, 5)


class Losses(Blocks):
    """Gives its losses for the loop to add up, as detectors do."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.blocks(x)
        return {"box": (hidden - 1).abs().mean(), "class": hidden.square().mean()}


class Heads(Blocks):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.blocks(x)
        return {"left": self.left(hidden), "right": self.right(hidden)}


class WithHidden(Blocks):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.blocks(x)
        return {"loss": hidden.square().mean(), "hidden": hidden}


Loss = Callable[[dict[str, Any], int], torch.Tensor]


def _train(model: nn.Module, loss: Loss, steps: int, budget: str = "75%") -> list[str]:
    """Train beside eager, compare every gradient, and return what was warned of."""
    eager = copy.deepcopy(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        autockpt.optimize(model, budget, optimizer="sgd", method="greedy")
        for step in range(steps):
            for module in (eager, model):
                module.zero_grad()
                loss(module(X), step).backward()
            assert_same_gradients(eager, model)
    model.zero_grad()
    return [str(warning.message) for warning in caught]


def _share_of_budget(model: nn.Module, loss: Loss) -> float:
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert plan.rung == "whole"
    peak_bytes = measure_peak_bytes(lambda: loss(model(X), 0).backward())
    resting_bytes = sum(tensor.nbytes for tensor in [*model.parameters(), X])
    return (resting_bytes + peak_bytes) / plan.budget_bytes


def test_losses_that_the_loop_adds_up_are_planned_together() -> None:
    """The first was taken for the loss, and the backward of the second failed."""
    model = Losses()
    assert not _train(model, lambda output, _: sum(output.values()), 2)
    assert _share_of_budget(model, lambda output, _: sum(output.values())) <= 1


@pytest.mark.parametrize("head", ["left", "right"])
def test_a_head_that_is_never_used_is_left_out_of_the_plan(head: str) -> None:
    """Its plan was for both heads. Every step ran without it, at 1.4 times the budget, and nothing
    was said."""
    model = Heads()

    def loss(output: dict[str, Any], _: int) -> torch.Tensor:
        return functional.softplus(output[head]).mean()

    (told,) = _train(model, loss, 3)
    assert "Heads got gradients for other outputs than planned" in told
    assert _share_of_budget(model, loss) <= 1.01


def test_heads_that_alternate_are_told() -> None:
    model = Heads()
    told = _train(model, lambda output, step: output[("left", "right")[step % 2]].mean(), 5)
    assert len(told) == 2
    assert "from backward to backward" in told[1]


def test_an_output_that_is_used_beside_the_loss_is_planned_for() -> None:
    model = WithHidden()
    told = _train(model, lambda out, _: out["loss"] + out["hidden"].sum(), 3)
    assert len(told) == 1
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert plan.rung == "whole"


def test_another_loss_than_the_one_that_was_named_is_told() -> None:
    model = Heads()
    autockpt.optimize(
        model,
        "75%",
        optimizer="sgd",
        method="greedy",
        loss_fn=lambda output: output["left"].mean() + output["right"].mean(),
    )
    model(X)["left"].mean().backward()
    with pytest.warns(UserWarning, match="other outputs than loss_fn uses"):
        model(X)
