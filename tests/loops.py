"""Training loops of every order, trained eagerly and optimized side by side."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import autockpt
from autockpt.dispatch.lookup import optimized_forward
from autockpt.verify.live_bytes import distinct_bytes
from autockpt.verify.peak import measure_peak_bytes

CPU = torch.device("cpu")


class Blocks(nn.Module):
    """Residual blocks, whose activations outweigh their parameters."""

    def __init__(self, width: int = 32, num_blocks: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, 4 * width),
                nn.GELU(),
                nn.Dropout(0.1),
                nn.Linear(4 * width, width),
                nn.LayerNorm(width),
            )
            for _ in range(num_blocks)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def batches(num: int, *, rows: int = 256, width: int = 32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, width, generator=generator) for _ in range(num)]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a program did, eagerly and optimized, in each of its steps."""

    model: nn.Module
    losses: list[list[torch.Tensor]]
    gradients: list[list[torch.Tensor | None]]
    num_plans: list[int]

    @property
    def is_same(self) -> bool:
        eager, optimized = self.losses
        is_loss_same = all(map(torch.equal, eager, optimized))
        return is_loss_same and all(
            a is b is None or torch.equal(a, b) for a, b in zip(*self.gradients, strict=True)
        )


Step = Callable[[nn.Module, torch.optim.Optimizer, int], torch.Tensor]


def train(model: nn.Module, step: Step, *, num_steps: int = 5, **asked: Any) -> Trained:
    """Run a step of a program several times, on a copy of the model and on it when optimized."""
    eager = copy.deepcopy(model)
    autockpt.optimize(model, **{"optimizer": "sgd", "method": "greedy", **asked})
    losses, gradients, num_plans = [], [], []
    for trained in (eager, model):
        torch.manual_seed(5)
        optimizer = torch.optim.SGD(trained.parameters(), lr=1e-2)
        losses.append([])
        for number in range(num_steps):
            losses[-1].append(step(trained, optimizer, number).detach().clone())
            forward = optimized_forward(trained)
            if forward is not None:
                num_plans.append(forward.num_plans)
        gradients.append([p.grad for p in trained.parameters()])
    return Trained(model, losses, gradients, num_plans)


def peak_bytes(model: nn.Module, inputs: list[torch.Tensor], step: Callable[[], Any]) -> int:
    """The measured peak of a step, with what is in memory before it."""
    older = [p.grad for p in model.parameters()]
    resting = [*model.parameters(), *model.buffers(), *older, *inputs]
    return distinct_bytes(resting) + measure_peak_bytes(step, CPU)
