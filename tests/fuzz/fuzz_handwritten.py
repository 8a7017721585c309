"""Layers of the random modules that are code of a user: state, autograd functions, loops."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from fuzz_layers import Apply, Shared, Sizes, layer
from fuzz_modules import mlp
from torch import nn
from torch.utils.checkpoint import checkpoint


class MovingAverage(nn.Module):
    """Buffers that the forward moves, before or after it reads them."""

    def __init__(self, sizes: Sizes, draw: random.Random) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(sizes.width))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.kind = draw.randrange(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.detach().mean(dim=tuple(range(x.dim() - 1))).to(self.average.dtype)
        if self.kind == 0:
            x = x - self.average
            self.average.mul_(0.9).add_(mean, alpha=0.1)
        elif self.kind == 1:
            with torch.no_grad():
                self.average.lerp_(mean, 0.1)
            x = x * (1 + self.average)
        elif self.kind == 2:
            self.average = 0.9 * self.average + 0.1 * mean
            x = x + self.average
        elif self.kind == 3:
            self.average.copy_(mean)
            x = torch.tanh(x) * self.average.clone()
        self.count += 1
        return x / (1 + 0.1 * self.count) if self.kind == 4 else x


@layer("seq", gives="seq")
def moving_average(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    return MovingAverage(sizes, draw)


@layer("seq", gives="seq")
def parameter_arithmetic(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    kinds: list[Any] = [
        lambda m, x: x * m.scale.exp() + m.shift,
        lambda m, x: x * torch.softmax(m.scale, 0),
        lambda m, x: x @ torch.outer(m.scale, m.shift),
        lambda m, x: x + m.scale.expand_as(x) * m.unused.detach(),
        lambda m, x: x * F.softplus(m.scale).unsqueeze(0) - m.shift.view(1, 1, -1),
    ]
    width = sizes.width
    return Apply(
        draw.choice(kinds),
        scale=nn.Parameter(torch.randn(width) * 0.1),
        shift=nn.Parameter(torch.randn(width) * 0.1),
        unused=nn.Parameter(torch.ones(width)),
    )


@layer("seq", gives="seq")
def spectral(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    length = sizes.length
    kinds: list[Any] = [
        lambda m, x: torch.fft.irfft(torch.fft.rfft(x.float(), dim=1), length, dim=1).to(x.dtype),
        lambda m, x: torch.fft.fft(x.float(), dim=1).real.to(x.dtype) * 0.1,
        lambda m, x: torch.fft.rfft(x.float(), n=2 * length - 1, dim=1).abs().to(x.dtype),
        lambda m, x: _rotated(x),
    ]
    return Apply(draw.choice(kinds))


def _rotated(x: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2).contiguous())
    angles = torch.arange(pairs.shape[-1], device=x.device) * 0.1
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return gradient * 3 * x**2


class _Exp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.exp(x.clamp(max=2) * scale)
        ctx.save_for_backward(y)
        ctx.scale = scale
        sign = x > 0
        ctx.mark_non_differentiable(sign)
        return y, sign

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> tuple[torch.Tensor, None]:
        (y,) = ctx.saved_tensors
        return gradient * y * ctx.scale, None


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


@layer("seq", gives="seq")
def own_function(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    kinds: list[Any] = [
        lambda m, x: _Cube.apply(torch.tanh(x)),
        lambda m, x: torch.where(_Exp.apply(x, 0.5)[1], _Exp.apply(x, 0.5)[0], x),
        lambda m, x: _StraightThrough.apply(x * 3) / 3,
    ]
    return Apply(draw.choice(kinds))


@layer("seq", gives="seq")
def checkpointed(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    inner = mlp(sizes, draw, shared)
    return Apply(lambda m, x: checkpoint(m.inner, x, use_reentrant=False), inner=inner)


@layer("seq", gives="seq")
def recurrent(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    kind = draw.choice([nn.GRU, nn.LSTM, nn.RNN])
    inner = kind(sizes.width, sizes.width, batch_first=True)
    return Apply(lambda m, x: m.inner(x)[0], inner=inner)


@layer("seq", gives="seq")
def loop_over_time(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        state, states = torch.zeros_like(x[:, 0]), []
        for step in x.unbind(1)[:4]:
            state = m.cell(step, state)
            states.append(state)
        return torch.cat([torch.stack(states, 1), x[:, 4:]], 1)

    return Apply(forward, cell=nn.GRUCell(sizes.width, sizes.width))
