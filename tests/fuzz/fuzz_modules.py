"""Layers of the random modules that have parameters, on sequences and vectors."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from fuzz_layers import Apply, Shared, Sizes, layer
from torch import nn


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
