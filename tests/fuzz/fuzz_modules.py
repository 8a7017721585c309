"""Layers with parameters, buffers and state of their own, entered beside the simple ones."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from fuzz_layers import LAYERS, Apply, Shared, Sizes, layer
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["LAYERS", "Shared", "Sizes"]


@layer("seq", gives="seq")
def linear(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    return nn.Linear(sizes.width, sizes.width, bias=draw.random() < 0.7)


@layer("vec", gives="vec")
def linear_of_vector(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    kinds: list[Any] = [
        lambda: nn.Linear(sizes.width, sizes.width),
        lambda: nn.Sequential(nn.Linear(sizes.width, 40), nn.ReLU(), nn.Linear(40, sizes.width)),
        lambda: Apply(
            lambda m, x: m.bilinear(x, x.tanh()),
            bilinear=nn.Bilinear(sizes.width, sizes.width, sizes.width),
        ),
        lambda: nn.BatchNorm1d(sizes.width, momentum=draw.choice([0.1, 0.3, None])),
        lambda: nn.PReLU(sizes.width),
    ]
    return draw.choice(kinds)()


@layer("seq", gives="seq")
def mlp(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    hidden = draw.choice([24, 64])
    act = draw.choice([nn.GELU, nn.ReLU, nn.SiLU, nn.Tanh])
    return nn.Sequential(
        nn.LayerNorm(sizes.width),
        nn.Linear(sizes.width, hidden),
        act(),
        nn.Dropout(draw.choice([0.0, 0.1])),
        nn.Linear(hidden, sizes.width),
    )


@layer("seq", gives="seq")
def gated(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        up, gate = m.up(x).chunk(2, -1)
        return x + m.down(F.silu(gate) * up)

    return Apply(forward, up=nn.Linear(sizes.width, 48), down=nn.Linear(24, sizes.width))


@layer("seq", gives="seq")
def norm(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    width = sizes.width
    affine, tracked = draw.random() < 0.6, draw.random() < 0.6

    def over_channels(inner: nn.Module) -> nn.Module:
        return Apply(lambda m, x: m.inner(x.transpose(1, 2)).transpose(1, 2), inner=inner)

    kinds: list[Any] = [
        lambda: nn.LayerNorm(width, elementwise_affine=affine),
        lambda: nn.RMSNorm(width, elementwise_affine=affine),
        lambda: over_channels(nn.BatchNorm1d(width, affine=affine, track_running_stats=tracked)),
        lambda: over_channels(nn.InstanceNorm1d(width, affine=affine, track_running_stats=tracked)),
        lambda: over_channels(nn.GroupNorm(4, width, affine=affine)),
    ]
    return draw.choice(kinds)()


@layer("img", gives="img")
def norm_of_image(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    width = sizes.width
    affine, tracked = draw.random() < 0.6, draw.random() < 0.6
    kinds: list[Any] = [
        lambda: nn.BatchNorm2d(width, affine=affine, track_running_stats=tracked),
        lambda: nn.BatchNorm2d(width, momentum=None),
        lambda: nn.InstanceNorm2d(width, affine=affine, track_running_stats=tracked),
        # PyTorch 2.13 ends the process where a channels-last input of GroupNorm wants no gradient.
        lambda: Apply(
            lambda m, x: m.inner(x if x.requires_grad else x.contiguous()),
            inner=nn.GroupNorm(draw.choice([1, 4]), width, affine=affine),
        ),
        lambda: nn.LocalResponseNorm(2),
        lambda: nn.BatchNorm2d(width).eval().requires_grad_(affine),
    ]
    return draw.choice(kinds)()


class Attention(nn.Module):
    """Self attention, by the fused kernel or by hand."""

    def __init__(self, sizes: Sizes, draw: random.Random) -> None:
        super().__init__()
        self.heads = draw.choice([1, 2, 4])
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width, bias=draw.random() < 0.5)
        self.out = nn.Linear(sizes.width, sizes.width)
        self.p = draw.choice([0.0, 0.0, 0.1, 0.3])
        self.fused = draw.random() < 0.5
        self.causal = draw.random() < 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        heads = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.p, is_causal=self.causal)
        else:
            scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
            if self.causal:
                mask = torch.ones(length, length, dtype=torch.bool).triu(1)
                scores = scores.masked_fill(mask, float("-inf"))
            y = F.dropout(scores.softmax(-1), self.p, self.training) @ v
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


@layer("seq", gives="seq")
def attention(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    if draw.random() < 0.6:
        return Attention(sizes, draw)
    p = draw.choice([0.0, 0.1])
    if draw.random() < 0.5:
        inner = nn.MultiheadAttention(sizes.width, 2, dropout=p, batch_first=True)
        weights = draw.random() < 0.5
        return Apply(lambda m, x: m.inner(x, x, x, need_weights=weights)[0], inner=inner)
    return nn.TransformerEncoderLayer(
        sizes.width, 2, 32, dropout=p, batch_first=True, norm_first=draw.random() < 0.5
    )


@layer("seq", "seq", gives="seq")
def cross_attention(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    def forward(m: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        k, v = m.keys(y).chunk(2, -1)
        return F.scaled_dot_product_attention(m.queries(x), k, v)

    width = sizes.width
    return Apply(forward, queries=nn.Linear(width, width), keys=nn.Linear(width, 2 * width))


@layer("seq", gives="seq")
def shared_linear(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    kinds: list[Any] = [
        lambda m, x: m.inner(x),
        lambda m, x: torch.tanh(m.inner(m.inner(x))),
        lambda m, x: F.linear(x, m.inner.weight.t()),
        lambda m, x: x @ m.inner.weight,
    ]
    return Apply(draw.choice(kinds), inner=shared.linear)


@layer("ids", gives="seq")
def embed(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    own = draw.random() < 0.6
    table = (
        nn.Embedding(
            sizes.vocabulary,
            sizes.width,
            padding_idx=draw.choice([None, 0]),
            scale_grad_by_freq=draw.random() < 0.2,
        )
        if own
        else shared.embedding
    )
    return Apply(lambda m, ids: m.table(ids), table=table)


@layer("seq", gives="seq")
def tied_head(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    return Apply(
        lambda m, x: (F.linear(x, m.table.weight).softmax(-1) @ m.table.weight).to(x.dtype),
        table=shared.embedding,
    )


@layer("img", gives="img")
def conv(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    w = sizes.width
    kinds: list[Any] = [
        lambda: nn.Conv2d(w, w, 3, padding=1, bias=draw.random() < 0.5),
        lambda: nn.Conv2d(w, w, 1),
        lambda: nn.Conv2d(w, w, 3, padding=1, groups=w),
        lambda: nn.Conv2d(w, w, 3, padding=2, dilation=2, groups=4),
        lambda: nn.Conv2d(w, w, 3, padding=1, padding_mode=draw.choice(["reflect", "circular"])),
        lambda: nn.Sequential(
            nn.Conv2d(w, w, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Upsample(sizes.size)
        ),
        lambda: nn.Sequential(
            nn.Conv2d(w, 2 * w, 2, stride=2), nn.GELU(), nn.ConvTranspose2d(2 * w, w, 2, stride=2)
        ),
        lambda: nn.Sequential(nn.Conv2d(w, 4 * w, 2, stride=2), nn.PixelShuffle(2)),
    ]
    return draw.choice(kinds)()


@layer("img", gives="img")
def resnet_block(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    w, inplace = sizes.width, draw.random() < 0.5

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.body(x)
        y += x
        return F.relu(y, inplace=inplace)

    body = nn.Sequential(
        nn.Conv2d(w, w, 3, padding=1, bias=False),
        nn.BatchNorm2d(w),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(w, w, 3, padding=1, bias=False),
        nn.BatchNorm2d(w),
    )
    return Apply(forward, body=body)


@layer("img", gives="img")
def pool(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    s = sizes.size
    kinds: list[Any] = [
        lambda: nn.MaxPool2d(3, 1, 1),
        lambda: nn.AvgPool2d(3, 1, 1),
        lambda: nn.Sequential(nn.MaxPool2d(2), nn.Upsample(s, mode="bilinear")),
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Upsample(s, mode="bicubic")),
        lambda: nn.Dropout2d(0.2),
        lambda: Apply(lambda _, x: F.interpolate(x, scale_factor=0.5, mode="area").tile(2, 2)),
        lambda: Apply(lambda _, x: F.fold(F.unfold(x, 2, stride=2), (s, s), 2, stride=2)),
        lambda: Apply(lambda _, x: F.normalize(x, dim=1)),
    ]
    return draw.choice(kinds)()


@layer("img", gives="seq")
def image_to_sequence(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    return Apply(lambda _, x: F.adaptive_avg_pool1d(x.flatten(2), sizes.length).transpose(1, 2))


@layer("seq", gives="img")
def sequence_to_image(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    s = sizes.size
    return Apply(lambda _, x: F.interpolate(x.mT, s * s, mode="linear").unflatten(-1, (s, s)))


@layer("seq", gives="vec")
def sequence_to_vector(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    kinds = [
        lambda _, x: x.mean(1),
        lambda _, x: x[:, -1],
        lambda _, x: x.max(1).values,
        lambda _, x: x.flatten(1)[:, : x.shape[-1]],
        lambda _, x: (x.softmax(1) * x).sum(1),
    ]
    return Apply(draw.choice(kinds))


@layer("img", gives="vec")
def image_to_vector(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    return Apply(draw.choice([lambda _, x: x.mean((2, 3)), lambda _, x: x.amax((-1, -2))]))


@layer("vec", gives="seq")
def vector_to_sequence(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    kinds: list[Any] = [
        lambda m, x: x.unsqueeze(1).expand(-1, sizes.length, -1),
        lambda m, x: x.unsqueeze(1) + m.positions,
        lambda m, x: x.unsqueeze(1).repeat(1, sizes.length, 1),
    ]
    positions = nn.Parameter(torch.randn(sizes.length, sizes.width))
    return Apply(draw.choice(kinds), positions=positions)


@layer("seq", gives="seq")
def convolved_sequence(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    groups = draw.choice([1, sizes.width])
    inner = nn.Conv1d(sizes.width, sizes.width, 3, padding=1, groups=groups)
    return Apply(lambda m, x: m.inner(x.transpose(1, 2)).transpose(1, 2) + x, inner=inner)


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
