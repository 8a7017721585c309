"""Layers of the random modules that take or give images."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from fuzz_layers import Apply, Shared, Sizes, layer
from torch import nn


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


@layer("img", gives="vec")
def image_to_vector(sizes: Sizes, draw: random.Random, shared: Shared) -> nn.Module:
    return Apply(draw.choice([lambda _, x: x.mean((2, 3)), lambda _, x: x.amax((-1, -2))]))
