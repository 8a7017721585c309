"""Modules on which recomputing, or tracing alone, could go wrong without a word."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import build
from torch import nn
from training import assert_same_gradients, assert_same_training, least_budget

import autockpt


class ReadAndOverwritten(nn.Module):
    """The backward reads a buffer as it was before this forward moved it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(64))
        self.linear = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.sin(self.linear(x) * self.scale.clone())
        z = torch.sin(y * self.scale.sqrt())
        self.scale.mul_(1.5)
        return (z * y).mean()


class MovingAverage(nn.Module):
    """An average of activations that the forward keeps, and uses."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(64))
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) - self.average
            with torch.no_grad():
                self.average.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return x.square().mean()


class InPlace(nn.Module):
    """In-place activations, writes into views, and values that pass by the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = nn.functional.relu(layer(x), inplace=True)
            y = x.clone()
            y[:, ::2] = y[:, ::2] * 2
            y.add_(1)
            x = y * y.detach().mean()
        return x.mean()


class Drawing(nn.Module):
    """Every kind of draw: masks, noise, feature dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))
        self.dropouts = nn.ModuleList([nn.Dropout(0.3), nn.AlphaDropout(0.2), nn.Dropout1d(0.1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x) + 0.1 * torch.randn_like(x)
            x = self.dropouts[index % 3](torch.nn.functional.gelu(x))
            keep = torch.empty(x.shape[0], 1).bernoulli_(0.8)
            x = x * keep + torch.rand_like(x).mul(0.01)
        return x.square().mean()


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return gradient * 3 * x**2


class OwnFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = _Cube.apply(torch.tanh(layer(x)))
        return x.mean()


class Tied(nn.Module):
    """One weight twice, one frozen, one unused."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 64)
        self.body = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.head = nn.Linear(64, 50, bias=False)
        self.head.weight = self.embed.weight
        self.body[0].weight.requires_grad_(False)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ids = x[:, :8].abs().mul(7).long().clamp(0, 49)
        return self.head(self.body(self.embed(ids))).logsumexp(-1).mean()


class RecurrentCells(nn.Module):
    """Cells write into parts of a product; kernels round the ends of their rows otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.lstm, self.rnn = nn.GRUCell(16, 13), nn.LSTMCell(13, 13), nn.RNNCell(13, 13)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gru = cell = rnn = x.new_zeros(len(x), 13)
        for token in x.view(len(x), 4, 16).unbind(1):
            gru = self.gru(token, gru)
            hidden, cell = self.lstm(gru, (rnn, cell))
            rnn = self.rnn(hidden, rnn)
        return rnn.square().mean()


class FilledImages(nn.Module):
    """Images with channels last are written into by operators that, traced, make them anew."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x.view(-1, 1, 8, 8)).contiguous(memory_format=torch.channels_last)
        y = (1.5 * y).masked_fill_(y > 0.3, 0.1)
        z = (2 * self.second(torch.sin(y))).cumsum_(3)
        index = y.detach().abs().clamp(max=5).long()
        z = torch.maximum(torch.sin(z), y).scatter_add_(1, index, z)
        return (z * y).mean() + z.sum((0, 2, 3)).square().mean()


MODELS = (
    *(ReadAndOverwritten, MovingAverage, InPlace, Drawing, OwnFunction, Tied),
    *(RecurrentCells, FilledImages),
)


@pytest.mark.row(
    "in-place ops and views", "eight modules on which recomputing, or tracing alone, could go wrong"
)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    ("tight", "method"),
    [
        (True, "greedy"),
        pytest.param(True, "auto", marks=pytest.mark.full),
        pytest.param(False, "auto", marks=pytest.mark.full),
    ],
)
def test_same_bits(kind: type[nn.Module], tight: bool, method: str) -> None:
    torch.manual_seed(0)
    model, x = kind(), torch.randn(256, 64)
    eager = copy.deepcopy(model)
    budget = least_budget(model, sample_args=(x,), optimizer="adamw", method=method)
    if not tight:
        baseline = autockpt.plan(model, "200%", sample_args=(x,)).baseline_peak_bytes
        budget = (budget + baseline) // 2
    autockpt.optimize(
        model, budget, sample_args=(x,), optimizer="adamw", method=method, verify=False
    )
    assert_same_training(eager, model, (x,))


@pytest.mark.row("two forwards before one backward", "CNN with BatchNorm and dropout")
def test_two_forwards_before_one_backward() -> None:
    tiny = build("sequential")
    eager = copy.deepcopy(tiny.model)
    autockpt.optimize(tiny.model, "80%", method="greedy", sample_args=tiny.args)
    for model in (eager, tiny.model):
        torch.manual_seed(3)
        first, second = model(*tiny.args), model(tiny.args[0].flip(0))
        (first * second).sum().backward()
    assert_same_gradients(eager, tiny.model)


@pytest.mark.row("retain_graph=True", "GPT-2, MLP with a graph break")
@pytest.mark.parametrize("name", ["control_flow", pytest.param("gpt2", marks=pytest.mark.full)])
def test_retain_graph_gives_the_gradients_twice(name: str) -> None:
    tiny = build(name)
    eager = copy.deepcopy(tiny.model)
    samples = {"sample_args": tiny.args, "sample_kwargs": tiny.kwargs}
    autockpt.optimize(tiny.model, "80%", method="greedy", **samples)
    plan = autockpt.get_plan(tiny.model)
    assert plan is not None
    assert plan.measured_peak_bytes is not None
    assert plan.measured_peak_bytes <= plan.budget_bytes
    for model in (eager, tiny.model):
        torch.manual_seed(3)
        loss = model(*tiny.args, **tiny.kwargs)["loss"]
        loss.backward(retain_graph=True)
        loss.backward()
    assert_same_gradients(eager, tiny.model)


@pytest.mark.row("part of the model optimized", "BERT's encoder")
def test_a_submodule_of_a_model() -> None:
    tiny = build("bert")
    eager = copy.deepcopy(tiny.model)
    autockpt.optimize(tiny.model.bert.encoder, "80%", method="greedy")
    assert_same_training(eager, tiny.model, (), tiny.kwargs)
    plan = autockpt.get_plan(tiny.model.bert.encoder)
    assert plan is not None
    assert plan.measured_peak_bytes is not None
    assert plan.measured_peak_bytes <= plan.budget_bytes
