"""A small model whose plans are kept, and what tests of kept plans do with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from training import CPU, Record, differing, seed_generators, train

import autockpt

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = (
            nn.Linear(16, 64),
            nn.BatchNorm1d(64),
            nn.Linear(64, 16),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(nn.functional.dropout(self.act(self.norm(self.first(x))), 0.1))

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(x)


class Net(nn.Module):
    block: Callable[[], nn.Module] = Block
    num_blocks = 2

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(self.block() for _ in range(self.num_blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x.square().mean()


class OtherBlock(Block):
    def act(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.silu(x)


class Other(Net):
    block = OtherBlock


# What another process sees after the code of a class was edited.
OtherBlock.__qualname__ = OtherBlock.__name__ = Block.__name__
Other.__qualname__ = Other.__name__ = Net.__name__


def trained(model: nn.Module) -> Record:
    seed_generators(3, CPU)
    return train(model, (X,))


def assert_same(expected: Record, got: Record) -> None:
    assert differing(expected, got) == []


def optimized(model: nn.Module, budget: str = "80%", **options: Any) -> nn.Module:
    autockpt.optimize(model, budget, optimizer="adamw", method="greedy", **options)
    return model


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("plans-v*/*.json"))


def cannot_capture(*_: Any, **__: Any) -> Any:
    raise autockpt.CaptureError(where="Net", reason="it cannot be traced")
