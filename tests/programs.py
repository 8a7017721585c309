"""Models for whole training programs, and a program's check with and without autockpt."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from training import Record, assert_same_program, least_budget, state_of

import autockpt

# Quick, and the same on a machine of any speed; the search for better plans is tested elsewhere.
OPTIONS: dict[str, Any] = {"optimizer": "sgd", "method": "greedy"}
Program = Callable[[nn.Module, torch.Tensor], Record]


class Blocks(nn.Module):
    """Layers with a bottleneck in bytes: plenty to compute again."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
        self.norm = nn.BatchNorm1d(32)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + self.drop(torch.tanh(nn.functional.gelu(layer(x))))
        return self.norm(x).square().mean()


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(4))
        self.drop = nn.Dropout2d(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + self.drop(torch.tanh(nn.functional.gelu(norm(layer(x)))))
        return x.square().mean()


def batch(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(512, 32, generator=torch.Generator().manual_seed(1)).to(dtype)


def record(model: nn.Module, losses: list[torch.Tensor]) -> Record:
    """What a program gives: its losses, and the model's state."""
    return {f"loss {n}": loss.detach() for n, loss in enumerate(losses)} | state_of(model)


def train(model: nn.Module, x: torch.Tensor, num_steps: int = 3) -> Record:
    """A plain loop with clipping, on the parameters that are to be trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    losses = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        losses.append(model(x))
        losses[-1].backward()
        nn.utils.clip_grad_norm_(trained, 0.1)
        optimizer.step()
    return record(model, losses)


def compare(
    model: nn.Module,
    x: torch.Tensor,
    program: Program = train,
    budget: str = "middle",
    context: Callable[[], Any] = contextlib.nullcontext,
) -> None:
    """Run a program on a model and on its optimized copy.

    The budget is a "middle" one, or a "small" one near the least that can be met; the program runs
    the model inside of the context.
    """
    optimized = copy.deepcopy(model)
    limit: int | str = "85%"
    if budget == "small":
        with context():
            limit = int(1.02 * least_budget(optimized, sample_args=(x,), **OPTIONS))
    autockpt.optimize(optimized, limit, **OPTIONS)
    assert_same_program(model, optimized, lambda m: program(m, x))
    plan = autockpt.get_plan(optimized)
    assert plan is not None
    assert plan.recompute_ns > 0
    # A step that moves parameters by itself cannot be tried, and is not measured.
    assert plan.measured_peak_bytes is None or plan.measured_peak_bytes <= plan.budget_bytes


def blocks() -> nn.Module:
    torch.manual_seed(0)
    return Blocks()
