"""Rows of layers: random ops, norms, state, views, functions and operators of the user's own."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from both import Body, check
from torch import nn
from training import assert_same_training

import autockpt

X = torch.randn(128, 64, generator=torch.Generator().manual_seed(0))
SEQUENCE = torch.randn(8, 32, 64, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(4, 16, 16, 16, generator=torch.Generator().manual_seed(0))


class Dropped(Body):
    def __init__(self, kind: type[nn.Module], p: float) -> None:
        super().__init__()
        self.drop = kind(p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x, lambda y, _: self.drop(y)).square().mean()


@pytest.mark.row("dropout everywhere", "MLPs with Dropout, AlphaDropout, FeatureAlphaDropout")
@pytest.mark.parametrize("kind", [nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout])
@pytest.mark.parametrize("p", [0.15, pytest.param(0.5, marks=pytest.mark.full)])
def test_dropout(kind: type[nn.Module], p: float) -> None:
    check(Dropped(kind, p), X)


class StochasticDepth(Body):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            shape = (x.shape[0], 1) if self.mode == "row" else (1, 1)
            keep = torch.empty(shape).bernoulli_(0.8).div_(0.8)
            x = x + keep * torch.tanh(F.gelu(layer(x)))
        return x.square().mean()


@pytest.mark.row("stochastic depth", "residual MLPs, dropped by row and by batch")
@pytest.mark.parametrize("mode", ["row", "batch"])
def test_stochastic_depth(mode: str) -> None:
    check(StochasticDepth(mode), X)


class Attention(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.qkv = nn.ModuleList(nn.Linear(64, 192) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for linear in self.qkv:
            q, k, v = (t.unflatten(-1, (4, 16)).transpose(1, 2) for t in linear(x).chunk(3, -1))
            if self.kind == "fused":
                y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1, is_causal=True)
            else:
                weights = F.dropout((q @ k.mT / 4).softmax(-1), 0.1)
                noise = torch.rand_like(weights) if self.kind == "noisy" else 0
                y = (weights + 0.01 * noise) @ v
            x = x + y.transpose(1, 2).flatten(-2)
        return x.square().mean()


@pytest.mark.row("random ops in attention", "fused, by hand, and with noise on the weights")
@pytest.mark.parametrize("kind", ["fused", "by hand", "noisy"])
def test_random_attention(kind: str) -> None:
    check(Attention(kind), SEQUENCE)


class Normed(nn.Module):
    def __init__(self, norm: type[nn.Module], **options: object) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(norm(16, **options) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        return x.square().mean()


@pytest.mark.row("BatchNorm and its buffers", "CNNs, with and without affine, with momentum")
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"momentum": 0.3}])
def test_batch_norm(options: dict[str, object]) -> None:
    check(Normed(nn.BatchNorm2d, **options), IMAGE)


@pytest.mark.row("BatchNorm with momentum=None", "a limitation: CaptureError, and eager trains on")
def test_a_cumulative_batch_norm_is_refused() -> None:
    """Its factor is read from the count of batches, a tensor, in Python."""
    model = Normed(nn.BatchNorm2d, momentum=None)
    eager = copy.deepcopy(model)
    with pytest.raises(autockpt.CaptureError, match="_local_scalar_dense"):
        autockpt.optimize(model, "80%", sample_args=(IMAGE,), optimizer="adamw")
    assert_same_training(eager, model, (IMAGE,))


@pytest.mark.row("InstanceNorm with running statistics", "CNNs, with and without affine")
@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm(affine: bool) -> None:
    check(Normed(nn.InstanceNorm2d, track_running_stats=True, affine=affine), IMAGE)


class Averages(Body):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("average", torch.zeros(64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def between(y: torch.Tensor, _: int) -> torch.Tensor:
            mean = y.detach().mean(0)
            if self.kind == "read, then moved":
                y = y - self.average
                self.average.lerp_(mean, 0.1)
            elif self.kind == "moved, then read":
                with torch.no_grad():
                    self.average.mul_(0.9).add_(mean, alpha=0.1)
                y = y * (1 + self.average)
            else:
                self.average = 0.9 * self.average + 0.1 * mean
                y = y + self.average
            return y

        self.steps += 1
        return self.body(x, between).square().mean() / self.steps


@pytest.mark.row("EMA and counting buffers that the forward moves", "read before, after, rebound")
@pytest.mark.parametrize("kind", ["read, then moved", "moved, then read", "rebound"])
def test_moving_buffers(kind: str) -> None:
    check(Averages(kind), X)


class Views(Body):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def between(y: torch.Tensor, number: int) -> torch.Tensor:
            z = y.clone()
            z[:, ::2] *= 2
            z.view(-1)[:8].add_(1)
            z.t()[number].mul_(0.5)
            half = z.chunk(2, 1)[0].sin()
            return torch.cat([half, z[:, 32:]], 1).relu_()

        return self.body(x, between).square().mean()


class Islands(Body):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def between(y: torch.Tensor, _: int) -> torch.Tensor:
            with torch.no_grad():
                scale = y.abs().mean() + 1
                mask = torch.rand_like(y) > 0.1
            return y * mask / scale + (y.round() - y).detach()

        return self.body(x, between).square().mean()


@pytest.mark.row("in-place ops and views", "writes into slices, transposes and flat views")
def test_views() -> None:
    check(Views(), X)


@pytest.mark.row("detach and no_grad islands", "with draws inside of them")
def test_islands() -> None:
    check(Islands(), X)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, scale: float):
        y = torch.sigmoid(x) * scale
        sign = x > 0
        ctx.mark_non_differentiable(sign)
        ctx.save_for_backward(x, y)
        ctx.scale = scale
        return y, sign

    @staticmethod
    def backward(ctx, gradient: torch.Tensor, _):
        x, y = ctx.saved_tensors
        return gradient * y * (1 - y / ctx.scale) + 0.1 * x, None


class OwnFunction(Body):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def between(y: torch.Tensor, _: int) -> torch.Tensor:
            y, sign = _Gated.apply(y, 1.5)
            return torch.where(sign, y, -y)

        return self.body(x, between).square().mean()


@pytest.mark.row("custom autograd.Function", "two outputs, one without a gradient, plain arguments")
def test_own_function() -> None:
    check(OwnFunction(), X)


CALLS: list[int] = []


@torch.library.custom_op("autockpt_tests::cube", mutates_args=())
def cube(x: torch.Tensor) -> torch.Tensor:
    CALLS.append(1)
    return x**3


@cube.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


cube.register_autograd(
    lambda ctx, gradient: gradient * 3 * ctx.saved_tensors[0] ** 2,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@torch.library.custom_op("autockpt_tests::count", mutates_args=("counter",))
def count(x: torch.Tensor, counter: torch.Tensor) -> None:
    counter.add_(x.numel())


@count.register_fake
def _(x: torch.Tensor, counter: torch.Tensor) -> None: ...


class OwnOperator(Body):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counter", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def between(y: torch.Tensor, _: int) -> torch.Tensor:
            y = cube(y)
            count(y, self.counter)
            return y

        return self.body(x, between).square().mean()


@pytest.mark.row("user-registered custom ops", "with and without side effects; each runs once")
def test_own_operators() -> None:
    check(OwnOperator(), X)


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64, sparse=True)
        self.inner = Body()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.inner.body(self.embed(ids)).square().mean()


@pytest.mark.row("sparse embedding gradients", "a limitation: CaptureError, and eager trains on")
def test_sparse_gradients_are_refused() -> None:
    model = Sparse()
    ids = torch.randint(0, 100, (64, 4), generator=torch.Generator().manual_seed(0))
    eager = copy.deepcopy(model)
    with pytest.raises(autockpt.CaptureError, match="SparseTensor"):
        autockpt.optimize(model, "90%", sample_args=(ids,), optimizer="sgd")
    assert_same_training(eager, model, (ids,), make=torch.optim.SGD)


class Complex(Body):
    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(33, dtype=torch.complex64) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def between(y: torch.Tensor, _: int) -> torch.Tensor:
            return torch.fft.irfft(torch.fft.rfft(y) * self.filter, 64)

        return self.body(x, between).square().mean()


class Rotary(Body):
    """Positions as complex numbers, as the first Llama had them."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(128.0), 100.0 ** (-torch.arange(32) / 32))
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def between(y: torch.Tensor, _: int) -> torch.Tensor:
            turned = torch.view_as_complex(y.unflatten(-1, (-1, 2))) * self.turns
            return torch.view_as_real(turned).flatten(-2)

        return self.body(x, between).square().mean()


@pytest.mark.row("complex tensors", "a spectral filter of complex parameters, rotary positions")
@pytest.mark.parametrize("kind", [Complex, pytest.param(Rotary, marks=pytest.mark.full)])
def test_complex(kind: type[nn.Module]) -> None:
    check(kind(), X)


@pytest.mark.row("bf16 and float64 parameters", "MLP with dropout, CNN with BatchNorm")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    check(Dropped(nn.Dropout, 0.1).to(dtype), X.to(dtype))


@pytest.mark.row("bf16 and float64 parameters", "MLP with dropout, CNN with BatchNorm")
@pytest.mark.full
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_of_cnns(dtype: torch.dtype) -> None:
    check(Normed(nn.BatchNorm2d).to(dtype), IMAGE.to(dtype))


@pytest.mark.row("channels_last", "CNN with BatchNorm and dropout of channels")
def test_channels_last() -> None:
    model = Normed(nn.BatchNorm2d).to(memory_format=torch.channels_last)
    check(model, IMAGE.contiguous(memory_format=torch.channels_last))


@pytest.mark.row("autocast in bf16 on the CPU", "MLP with dropout, attention fused and by hand")
@pytest.mark.parametrize("kind", ["fused", "by hand", "mlp"])
def test_autocast(kind: str) -> None:
    model = Dropped(nn.Dropout, 0.1) if kind == "mlp" else Attention(kind)
    check(
        model,
        X if kind == "mlp" else SEQUENCE,
        context=lambda: torch.autocast("cpu", torch.bfloat16),
    )
