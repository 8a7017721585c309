"""The layers that random modules are made of, by name, with what each takes and gives.

A value is a sequence ``(batch, length, width)``, an image ``(batch, width, size, size)``, a vector
``(batch, width)`` or token ids ``(batch, length)``; every layer gives one of these shapes, so that
any layer can follow any other, and can be left out.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes that all layers of a module share."""

    batch: int
    length: int
    width: int
    size: int
    vocabulary: int = 23


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shared:
    """Modules of which several layers use one and the same."""

    linear: nn.Linear
    embedding: nn.Embedding


Make = Callable[[Sizes, random.Random, Shared], nn.Module]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """How a layer is made, the kinds of values it takes, and the kind it gives."""

    takes: tuple[str, ...]
    gives: str
    make: Make


LAYERS: dict[str, Layer] = {}


def layer(*takes: str, gives: str) -> Callable[[Make], Make]:
    """Enters a layer under its function's name."""

    def enter(make: Make) -> Make:
        LAYERS[make.__name__] = Layer(takes=takes, gives=gives, make=make)
        return make

    return enter


class Apply(nn.Module):
    """A function as a module, with its own parameters and buffers at hand."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return self.function(self, *values)


def elementwise(*functions: Callable[[torch.Tensor], torch.Tensor]) -> Make:
    """A choice among functions of one value without parameters."""
    wrapped = [lambda _, x, f=f: f(x) for f in functions]
    return lambda sizes, draw, shared: Apply(draw.choice(wrapped))


ACTIVATIONS = (
    F.relu,
    F.gelu,
    F.silu,
    torch.tanh,
    torch.sigmoid,
    F.softplus,
    F.elu,
    F.leaky_relu,
    F.hardswish,
    F.mish,
    F.selu,
    F.hardtanh,
    F.logsigmoid,
    torch.sin,
    lambda x: F.gelu(x, approximate="tanh"),
    lambda x: F.softmax(x, -1),
    lambda x: F.log_softmax(x, -1),
    lambda x: F.glu(torch.cat([x, x * 0.5], -1), -1),
    lambda x: F.relu(x, inplace=True) if not x.is_leaf else F.relu(x),
    lambda x: (x * 1.5).sigmoid_(),
    lambda x: F.silu(x + 0.1, inplace=True),
    lambda x: F.elu(x * 2, inplace=True),
    lambda x: (x - 0.5).clamp_(-1, 1),
    lambda x: F.hardswish(x + x, inplace=True),
    lambda x: x.clone().mul_(2).add_(1).tanh_(),
    lambda x: torch.where(x > 0, x, x.exp() - 1),
    lambda x: x.masked_fill(x > 1, 0.0),
    lambda x: x.abs().add(0.1).sqrt() * x.sign(),
    lambda x: x.square().add(1).rsqrt() * x,
    lambda x: torch.logaddexp(x, x.neg()),
    lambda x: x / (x.norm(dim=-1, keepdim=True) + 1e-3),
    lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1),
    lambda x: x - x.logsumexp(-1, keepdim=True),
    lambda x: x * x.amax(-1, keepdim=True).detach(),
)
layer("seq", gives="seq")(activation := elementwise(*ACTIVATIONS))


def _enter(name: str, takes: tuple[str, ...], gives: str, make: Make) -> None:
    LAYERS[name] = Layer(takes=takes, gives=gives, make=make)


del LAYERS[activation.__name__]
for _kind in ("seq", "img", "vec"):
    _enter(f"activation_{_kind}", (_kind,), _kind, activation)


def _dropout(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    p = draw.choice([0.1, 0.15, 0.2, 0.3, 0.37, 0.5, 0.9])
    return draw.choice(
        [
            lambda: nn.Dropout(p),
            lambda: nn.Dropout(p, inplace=False),
            lambda: nn.AlphaDropout(p),
            lambda: nn.FeatureAlphaDropout(p),
            lambda: Apply(lambda _, x: F.dropout(x, p, training=True)),
            lambda: Apply(lambda _, x: F.dropout(x * 1.1, p, training=True, inplace=True)),
            lambda: Apply(lambda _, x: x * torch.empty_like(x).bernoulli_(1 - p).div_(1 - p)),
            lambda: Apply(lambda _, x: x + p * torch.randn_like(x)),
            lambda: Apply(lambda _, x: x * torch.rand_like(x).gt(p)),
            lambda: Apply(lambda _, x: x * torch.bernoulli(torch.full_like(x, p))),
            lambda: Apply(lambda _, x: x + torch.empty_like(x).normal_(0, p)),
            lambda: Apply(lambda _, x: x + torch.empty_like(x).uniform_(-p, p)),
            lambda: nn.RReLU(),
            lambda: Apply(lambda _, x: x[torch.randperm(x.shape[0], device=x.device)]),
            lambda: Apply(lambda _, x: nn.Identity()(F.dropout(x, 0.0, training=True))),
        ]
    )()


for _kind in ("seq", "img", "vec"):
    _enter(f"dropout_{_kind}", (_kind,), _kind, _dropout)


def _depth_mask(x: torch.Tensor, p: float) -> torch.Tensor:
    shape = (x.shape[0],) + (1,) * (x.dim() - 1)
    return torch.rand(shape, dtype=x.dtype, device=x.device).add_(1 - p).floor_()


def _stochastic_depth(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    p = draw.choice([0.1, 0.3, 0.5])
    drop = draw.choice(
        [
            lambda _, x, y: x + y / (1 - p) * _depth_mask(y, p),
            lambda _, x, y: (
                x
                + y
                * y.new_empty((y.shape[0],) + (1,) * (y.dim() - 1)).bernoulli_(1 - p).div_(1 - p)
            ),
        ]
    )
    return Apply(drop)


for _kind in ("seq", "img", "vec"):
    _enter(f"stochastic_depth_{_kind}", (_kind, _kind), _kind, _stochastic_depth)


_COMBINE = (
    lambda _, x, y: x + y,
    lambda _, x, y: x - 0.5 * y,
    lambda _, x, y: x * y.sigmoid(),
    lambda _, x, y: torch.maximum(x, y),
    lambda _, x, y: torch.lerp(x, y, 0.3),
    lambda _, x, y: torch.where(x > y, x, y * 2),
    lambda _, x, y: torch.addcmul(x, x, y, value=0.1),
    lambda _, x, y: torch.stack([x, y]).mean(0),
    lambda _, x, y: (x + 0.0).add_(y),
    lambda _, x, y: torch.cat([x, y], 0)[1 : 1 + x.shape[0]],
    lambda _, x, y: sum(torch.cat([x, y], 1).chunk(2, 1)),
    lambda _, x, y: x + y.detach(),
    lambda _, x, y: torch.stack([x, y], -1).unbind(-1)[1] * 2 + x,
    lambda _, x, y: torch.minimum(x, y).mul_(2),
    lambda _, x, y: torch.atan2(x, y.abs() + 1),
)
for _kind in ("seq", "img", "vec"):
    _enter(f"combine_{_kind}", (_kind, _kind), _kind, lambda s, d, p: Apply(d.choice(_COMBINE)))


def _write_half(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, ::2] = y[:, ::2] * 2
    y[..., 0] += 1
    return y


def _write_other(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y[:, 1:] = x[:, :-1]
    y.narrow(0, 0, 1).copy_(x[:1].sin())
    return y + x


_SHAPES = (
    lambda x: x.roll(1, 0),
    lambda x: x.flip(-1),
    lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    lambda x: x.reshape(-1, x.shape[-1]).mul(2).view(x.shape),
    lambda x: x.flatten().view(x.shape) * 0.5,
    lambda x: x.mean(0, keepdim=True).expand_as(x) + x,
    lambda x: torch.cat(list(reversed(x.chunk(2, -1))), -1),
    lambda x: torch.cat([p * i for i, p in enumerate(x.split(x.shape[-1] // 4, -1))], -1),
    lambda x: torch.stack(x.unbind(1), 1).sin(),
    lambda x: F.pad(x, (1, 1))[..., 1:-1].cos() + x,
    lambda x: x.cumsum(1) * 0.1,
    lambda x: x.sort(-1).values,
    lambda x: x * torch.zeros_like(x).scatter(-1, x.topk(2, -1).indices, 1.0),
    lambda x: x.gather(-1, x.argsort(-1)),
    lambda x: x.index_select(0, torch.arange(x.shape[0] - 1, -1, -1)),
    lambda x: x.unfold(-1, 2, 2).flatten(-2).tanh(),
    lambda x: torch.movedim(torch.movedim(x, -1, 0) * 2, 0, -1),
    lambda x: x.repeat_interleave(2, -1)[..., ::2].exp().clamp(max=3),
    lambda x: torch.zeros_like(x).index_add(0, torch.arange(x.shape[0]), x) + 1,
    lambda x: torch.einsum("b...c,b...c->b...", x, x).unsqueeze(-1).sigmoid() * x,
    lambda x: x.swapaxes(0, -1).tril().swapaxes(0, -1) if x.dim() == 3 else x,
    lambda x: x.as_strided(x.shape, x.stride()) * 2 if x.is_contiguous() else x * 2,
    lambda x: x.double().softmax(-1).to(x.dtype),
    lambda x: x.to(torch.float32).square().to(x.dtype),
    _write_half,
    _write_other,
)
for _kind in ("seq", "img", "vec"):
    _enter(f"shape_{_kind}", (_kind,), _kind, elementwise(*_SHAPES))


@torch.no_grad()
def _without_grad(x: torch.Tensor) -> torch.Tensor:
    return x.abs().mean().add(1).log()


def _island(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        scale = x.std() + 1
        mask = (x > 0).to(x.dtype)
    return x * mask / scale


_ISLANDS = (
    _island,
    lambda x: x * _without_grad(x),
    lambda x: x + (x.round() - x).detach(),
    lambda x: x - x.detach().mean(0),
    lambda x: x.detach() + x * 0.0,
)
for _kind in ("seq", "vec"):
    _enter(f"island_{_kind}", (_kind,), _kind, elementwise(*_ISLANDS))
