"""Models that cannot be traced, as a whole or in part, for the lower rungs of the ladder."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

import autockpt

WIDTH = 32


class Block(nn.Module):
    """Dropout and BatchNorm: what recomputing gets wrong first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH), nn.Dropout(0.1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.norm(x))


class Stack(nn.Module):
    """Blocks in a loop that looks at values, which no tracer can follow on tensors without any."""

    block: type[nn.Module] = Block

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.block() for _ in range(4))
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
            if x.abs().mean().item() > 1e6:
                raise OverflowError
        return self.head(x).square().mean()


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, num_layers=2, dropout=0.2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.lstm(x[None])[0][0]


class Recurrent(Stack):
    """PyTorch's own recurrent layers, which are never captured."""

    block = _Recurrent


class _Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return gradient * torch.from_numpy(np.cos(x.detach().numpy()))


class _Foreign(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keep = torch.from_numpy(np.random.rand(*x.shape) > 0.1)
        return x + random.random() * keep * self.mlp(_Sine.apply(x))


class Foreign(Stack):
    """A library in C, and draws from the generators of numpy and Python."""

    block = _Foreign


class _Averaging(Block):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Written behind the version counter, as many averages are, and read after.
        self.average.data.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return super().forward(x) * (1 + self.average)


class Averaging(Stack):
    """A buffer that a forward moves and then reads."""

    block = _Averaging


class _Handed(Block):
    def forward(self, state: dict[str, torch.Tensor]) -> None:
        state["x"] = super().forward(state["x"])
        state["calls"] = state.get("calls", 0) + 1


class Handed(Stack):
    """Blocks that fill a dictionary and return nothing."""

    block = _Handed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = {"x": x}
        for block in self.blocks:
            block(state)
            assert state["x"].abs().mean().item() < 1e6
        assert state["calls"] == len(self.blocks)
        return self.head(state["x"]).square().mean()


class Shared(Stack):
    """One block four times."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([self.blocks[0]] * 4)


class Disabled(Stack):
    """Code that its author keeps away from Dynamo."""

    @torch._dynamo.disable(recursive=True)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


class Splitting(Stack):
    """A loop that cannot be traced, around blocks that can."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
            torch._dynamo.graph_break()
        return self.head(x).square().mean()


class Yielding(Stack):
    """A generator that Dynamo leaves between the blocks."""

    def _stages(self, x: torch.Tensor):
        for block in self.blocks:
            x = block(x)
            torch._dynamo.graph_break()
            yield x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *_, x = self._stages(x)
        return self.head(x).square().mean()


class _Broken(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        torch._dynamo.graph_break()
        return x + self.mlp(x)


class Breaking(Splitting):
    """Blocks that are not one graph, made of parts that are."""

    block = _Broken


def built(kind: type[nn.Module]) -> tuple[nn.Module, torch.Tensor]:
    """A model and its input."""
    torch.manual_seed(0)
    return kind().train(), torch.randn(512, WIDTH)


def optimized(model: nn.Module, budget: str, x: torch.Tensor, **options: Any) -> list[str]:
    """Optimize the model, and return its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        autockpt.optimize(
            model, budget, sample_args=(x,), optimizer="adamw", method="greedy", **options
        )
    return [str(warning.message) for warning in caught]
