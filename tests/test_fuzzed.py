"""What the fuzzer found, each with its story."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from training import train

import autockpt
from autockpt.measure import measure_peak_bytes
from autockpt.optimizer_memory import optimizer_memory
from autockpt.verify import same_bits


def differing(expected, got):
    return [name for name in expected if not same_bits(expected[name], got[name])]


def at_the_minimum(model: nn.Module, *args: torch.Tensor, **options) -> nn.Module:
    """The model optimized for the least budget that can be met, and not verified."""
    with pytest.raises(autockpt.BudgetError) as caught:
        autockpt.plan(model, 1, sample_args=args, **options)
    budget = caught.value.minimum_peak_bytes
    return autockpt.optimize(model, budget, sample_args=args, verify=False, **options)


class Reused(nn.Module):
    """One module at two places."""

    def __init__(self) -> None:
        super().__init__()
        linear = nn.Linear(32, 32)
        self.first = nn.Sequential(linear, nn.Tanh())
        self.second = nn.Sequential(linear, nn.GELU(), nn.Linear(32, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)).square().mean()


def test_a_module_at_two_places_keeps_its_own_parameters() -> None:
    """Fakes were put in its place twice, the first of them was put back: the model was lost."""
    torch.manual_seed(0)
    model, x = Reused(), torch.randn(64, 32)
    before = {id(p) for p in model.parameters()}
    expected = train(copy.deepcopy(model), (x,))
    at_the_minimum(model, x)
    assert {id(p) for p in model.parameters()} == before
    assert differing(expected, train(model, (x,))) == []


def test_a_norm_whose_input_needs_no_gradient_is_measured() -> None:
    """BatchNorm's backward then returns none where its fake returned a tensor: planning crashed."""

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(32)
            self.head = nn.Linear(32, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.tanh(self.norm(x))).mean()

    torch.manual_seed(0)
    model, x = First(), torch.randn(64, 32)
    expected = train(copy.deepcopy(model), (x,))
    autockpt.optimize(model, "100%", sample_args=(x,), optimizer="adamw")
    assert differing(expected, train(model, (x,))) == []


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_what_an_optimizers_step_needs(name: str) -> None:
    """The loop over parameters holds its last temporary while it makes the next: some bytes more
    than two of the largest parameter, which a tight budget did not have."""
    model = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 80), nn.Linear(80, 3))
    make = torch.optim.AdamW if name == "adamw" else torch.optim.SGD
    optimizer = make(model.parameters(), weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    counted = optimizer_memory(name, model.parameters())
    assert counted.step_bytes == optimizer_memory(optimizer, model.parameters()).step_bytes
    measured_bytes = measure_peak_bytes(optimizer.step)
    assert measured_bytes <= counted.step_bytes
    if name == "adamw":
        assert counted.step_bytes - measured_bytes <= 64


def test_an_optimizer_that_has_not_stepped_counts_its_step_counts() -> None:
    model = nn.Linear(8, 8)
    fresh = optimizer_memory(torch.optim.AdamW(model.parameters()), model.parameters())
    assert fresh.state_bytes == optimizer_memory("adamw", model.parameters()).state_bytes


@pytest.mark.row("autocast in bf16 on the CPU", "backward after the autocast block")
def test_autocast_is_off_in_the_backward() -> None:
    """A loop calls backward after its autocast block, and that of scaled_dot_product_attention, in
    float32 there, was traced as if within: its products in bfloat16, without a word."""

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(16, 48)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            return nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=0.1).mean()

    torch.manual_seed(0)
    model, x = Attends(), torch.randn(8, 16, 16)
    eager = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        at_the_minimum(model, x, optimizer="sgd")
    for each in (eager, model):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            loss = each(x)
        loss.backward()
    assert same_bits(model.qkv.weight.grad, eager.qkv.weight.grad)
