"""Models that need only torch: a plain `nn.Sequential`, and one with Python control flow."""

from __future__ import annotations

import torch
from torch import nn

from autockpt.torch_private.dynamo import graph_break
from autockpt.zoo.example import Example, Size


def sequential(size: Size, batch: int | None = None) -> Example:
    """Convolutions with BatchNorm and Dropout in an `nn.Sequential`; its output is no loss."""
    batch, pixels, channels, depth = (
        (batch or 4, 64, 24, 8) if size == "small" else (batch or 32, 224, 64, 16)
    )
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
    for _ in range(depth):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Dropout(0.1),
        ]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return Example(
        model=nn.Sequential(*layers),
        args=(torch.randn(batch, 3, pixels, pixels),),
        loss_fn=mean_square,
    )


def mean_square(output: torch.Tensor) -> torch.Tensor:
    """Returns a scalar that depends on every element."""
    return output.square().mean()


class ControlFlow(nn.Module):
    """Residual blocks under Python control flow, with a graph break half way."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.GELU(),
                nn.Dropout(0.1),
                nn.Linear(4 * width, width),
            )
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor, *, skip_last: bool = False) -> torch.Tensor:
        """Returns the scalar loss."""
        blocks = list(self.blocks)[: -1 if skip_last else None]
        half = len(blocks) // 2
        for index, block in enumerate(blocks[:half]):
            x = self._step(index, block, x)
        graph_break()
        for index, block in enumerate(blocks[half:]):
            x = self._step(index, block, x)
        scores: torch.Tensor = self.head(x).squeeze(-1)
        return scores.square().mean()

    def _step(self, index: int, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if x.dim() == 3 and index % 3 == 2:
            x = x.transpose(0, 1)
        y: torch.Tensor = block(x)
        return x + y if index % 2 else y + 0.5 * x


def control_flow(size: Size, batch: int | None = None) -> Example:
    """A module that `torch.compile` captures in two graphs."""
    batch, length, width, depth = (
        (batch or 4, 128, 128, 8) if size == "small" else (batch or 16, 1024, 1024, 24)
    )
    return Example(
        model=ControlFlow(width, depth),
        args=(torch.randn(batch, length, width),),
        kwargs={"skip_last": True},
    )
