"""Programs that train a model, run with and without the one line: the same to the bit."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from training import differing

import autockpt

OPTIONS: dict[str, Any] = {"optimizer": "sgd", "time_limit_s": 2.0}
Program = Callable[[nn.Module, torch.Tensor], dict[str, Any]]


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


def record(model: nn.Module, losses: list[torch.Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = {f"loss {n}": loss.detach() for n, loss in enumerate(losses)}
    for name, parameter in model.named_parameters():
        found[f"parameter {name}"] = parameter.detach().clone()
        found[f"gradient {name}"] = parameter.grad
    found |= {f"buffer {name}": buffer.clone() for name, buffer in model.named_buffers()}
    return found | {"random state": torch.get_rng_state()}


def train(model: nn.Module, x: torch.Tensor, num_steps: int = 3) -> dict[str, Any]:
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
) -> nn.Module:
    """Run a program on a model and on its optimized copy; returns the latter.

    The budget is a "middle" one, or a "small" one near the least that a quick method can meet; the
    program runs the model inside of the context.
    """
    optimized = copy.deepcopy(model)
    torch.manual_seed(3)
    expected = program(model, x)
    limit: int | str = "75%"
    options = OPTIONS
    if budget == "small":
        options = {**OPTIONS, "method": "greedy"}
        with context(), pytest.raises(autockpt.BudgetError) as caught:
            autockpt.plan(optimized, 1, sample_args=(x,), **options)
        limit = int(1.02 * caught.value.minimum_peak_bytes)
    torch.manual_seed(3)
    got = program(autockpt.optimize(optimized, limit, **options), x)
    assert differing(expected, got) == []
    plan = autockpt.get_plan(optimized)
    assert plan is not None
    assert plan.recompute_ns > 0
    # A step that moves parameters by itself cannot be tried, and is not measured.
    assert plan.measured_peak_bytes is None or plan.measured_peak_bytes <= plan.budget_bytes
    return optimized


def blocks() -> nn.Module:
    torch.manual_seed(0)
    return Blocks()
