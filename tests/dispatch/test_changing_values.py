"""Python values that the forward reads and that change: a counter of steps, a flag, a name.

A weight that grew with a counter of steps was compiled anew in every step, for ever.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import autockpt

WIDTH = 32
X = torch.randn(256, WIDTH, generator=torch.Generator().manual_seed(0))


class Counting(nn.Module):
    """Its loss grows a term with every step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
            for _ in range(4)
        )
        self.step = 0

    def value(self) -> Any:
        return min(1.0, self.step / 5)

    def weight(self, value: Any) -> float:
        return value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight(self.value())
        self.step += 1
        for layer in self.layers:
            x = x + layer(x)
        return x.square().mean() + weight * x.abs().mean()


class Toggling(Counting):
    """Takes one of two paths, in turn."""

    flag = False

    def value(self) -> Any:
        self.flag = not self.flag
        return self.flag

    def weight(self, value: Any) -> float:
        return 0.5 if value else 0.1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.step -= 1
        return super().forward(x)


class Naming(Counting):
    """Reads a text that is another in every step: it cannot be left open."""

    name = "0"

    def value(self) -> Any:
        self.name = str(int(self.name) + 1)
        return self.name

    def weight(self, value: Any) -> float:
        return float(len(value)) if value != "-" else 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.step = 0
        return super().forward(x)


def trained(model: nn.Module, num_steps: int) -> tuple[list[torch.Tensor], list[int]]:
    """Losses and gradients of each step, and how much Dynamo has compiled before and after it."""
    found: list[torch.Tensor] = []
    compiled: list[int] = []
    for _ in range(num_steps):
        model.zero_grad()
        loss = model(X)
        loss.backward()
        found += [loss.detach(), *(p.grad.clone() for p in model.parameters())]
        compiled.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    return found, compiled


def compared(
    kind: type[nn.Module], budget: int | str, num_steps: int
) -> tuple[nn.Module, list[str], list[int]]:
    """The optimized model, its warnings, and what was compiled; its bits are eager's."""
    model = kind().train()
    expected, _ = trained(copy.deepcopy(model), num_steps)
    autockpt.optimize(model, budget, optimizer="sgd", method="greedy")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got, compiled = trained(model, num_steps)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    return model, [str(w.message) for w in caught], compiled


def test_a_counter_is_left_open_in_the_graphs_of_its_plan() -> None:
    model, said, compiled = compared(Counting, "70%", 12)
    plan = autockpt.get_plan(model)
    assert said == []
    assert plan.rung == "whole"
    assert plan.recompute_ns > 0
    assert plan.peak_bytes <= plan.budget_bytes
    assert compiled[6:] == [compiled[6]] * 6


def test_two_paths_that_come_back_keep_their_plan() -> None:
    model, said, compiled = compared(Toggling, "70%", 8)
    assert said == []
    assert autockpt.get_plan(model).rung == "whole"
    assert compiled[2:] == [compiled[2]] * 6


@pytest.mark.parametrize(("budget", "rung"), [("85%", "checkpoint"), (709_050, "whole")])
def test_what_cannot_be_left_open_costs_a_rung_and_is_named(budget: int | str, rung: str) -> None:
    """If no lower rung fits the budget, as with 709,050 bytes, the plan stays."""
    model, said, compiled = compared(Naming, budget, 12)
    assert autockpt.get_plan(model).rung == rung
    assert len(said) == 1, said
    (warning,) = said
    assert "self.name" in warning
    assert "test_changing_values.py:" in warning
    assert "changes at every call" in warning
    if rung == "checkpoint":
        assert len(warning.splitlines()) == 3
        assert compiled[8:] == [compiled[8]] * 4
    else:
        assert "No other plan fits" in warning
