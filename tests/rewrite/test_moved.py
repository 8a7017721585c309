"""Plans that run backward ops in an order of their own: the same bits, in the bytes foreseen."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from training import differing, peak_bytes, train

import autockpt

_DIM = 32

pytestmark = pytest.mark.usefixtures("short_searches")


class _Attention(nn.Module):
    """Three projections of one value: their gradients for it are added, those for weights wait."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_DIM)
        self.query, self.key, self.value = (nn.Linear(_DIM, _DIM) for _ in range(3))
        self.grow, self.shrink = nn.Linear(_DIM, 4 * _DIM), nn.Linear(4 * _DIM, _DIM)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        heads = (project(y).unflatten(-1, (4, -1)).transpose(1, 2) for project in self.projections)
        mixed = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(-2)
        x = x + self.dropout(mixed)
        grown: torch.Tensor = self.shrink(nn.functional.gelu(self.grow(x)))
        return x + grown

    @property
    def projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.query, self.key, self.value


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_Attention() for _ in range(2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y.square().mean()


def _train_moved(model: nn.Module, x: torch.Tensor, budget: str) -> autockpt.Plan:
    """Train as eager does, by a plan that runs backward ops in another order."""
    expected = train(copy.deepcopy(model), (x,))
    autockpt.optimize(model, budget, sample_args=(x,))
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert plan.graph is not None
    assert plan.schedule is not None
    order = [op for op in plan.schedule.compute_order if op >= plan.graph.num_forward]
    assert order != sorted(order)
    assert differing(expected, train(model, (x,))) == []
    return plan


@pytest.mark.parametrize("budget", ["85%", "70%"])
def test_a_step_follows_the_plans_order_to_the_bit(budget: str) -> None:
    torch.manual_seed(0)
    model, x = _Model(), torch.randn(8, 48, _DIM)
    plan = _train_moved(model, x, budget)
    assert peak_bytes(model, (x,)) <= plan.budget_bytes


class _Noisy(torch.autograd.Function):
    """Its backward draws two tensors that depend on no gradient, for two that do."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (gradient,), (weight,) = gradients, ctx.saved_tensors
        flat = gradient.reshape(-1, _DIM)
        return (gradient * torch.rand(_DIM)) @ weight.T, flat.T @ torch.rand(flat.shape)


class _NoisyAttention(_Attention):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(_DIM, _DIM) / 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = _Noisy.apply(super().forward(x), self.mix)
        return y


@pytest.mark.parametrize("budget", ["90%", "75%"])
def test_draws_of_the_backward_keep_their_order(budget: str) -> None:
    """They counted as the forward's, ran right before their first reader, and traded places."""
    torch.manual_seed(0)
    model, x = _Model(), torch.randn(8, 48, _DIM)
    model.layers = nn.Sequential(*(_NoisyAttention() for _ in range(2)))
    assert _train_moved(model, x, budget).rung == "whole"


class _NoisyLast(_Noisy):
    """Its backward, the first of all, draws before it reads the gradient; the last draw first."""

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (gradient,), (weight,) = gradients, ctx.saved_tensors
        for_weight, for_input = torch.rand(8 * 48, _DIM), torch.rand(_DIM)
        flat = gradient.reshape(-1, _DIM)
        return (gradient * for_input) @ weight.T, flat.T @ for_weight


def test_draws_that_a_backward_begins_with_keep_their_order() -> None:
    """They stand before all that depends on a gradient, and counted as the forward's."""

    class Ending(_Model):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Parameter(torch.randn(_DIM, _DIM) / 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = _NoisyLast.apply(self.layers(x), self.mix)
            return y

    def loss_fn(y: torch.Tensor) -> torch.Tensor:
        return y.square().mean()

    torch.manual_seed(0)
    model, x = Ending(), torch.randn(8, 48, _DIM)
    expected = train(copy.deepcopy(model), (x,), loss_fn=loss_fn)
    autockpt.optimize(model, "80%", sample_args=(x,), loss_fn=loss_fn)
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert plan.rung == "whole"
    assert plan.graph is not None
    draws = [op for op in plan.graph.ops if op.name.startswith("rand")]
    assert [op.is_fence for op in draws] == [True, True]
    assert differing(expected, train(model, (x,), loss_fn=loss_fn)) == []


def test_what_acts_on_state_in_the_backward_keeps_its_place() -> None:
    """A backward that writes down what it met writes it in eager's order."""
    seen: list[float] = []

    @torch.library.custom_op("moved::copy", mutates_args=())
    def note(x: torch.Tensor, number: int) -> torch.Tensor:
        return x.clone()

    @note.register_fake
    def _(x: torch.Tensor, number: int) -> torch.Tensor:
        return torch.empty_like(x)

    @torch.library.custom_op("moved::copy_back", mutates_args=())
    def noted(gradient: torch.Tensor, number: int) -> torch.Tensor:
        seen.append(number)
        return gradient.clone()

    @noted.register_fake
    def _(gradient: torch.Tensor, number: int) -> torch.Tensor:
        return torch.empty_like(gradient)

    note.register_autograd(
        lambda ctx, gradient: (noted(gradient, ctx.number), None),
        setup_context=lambda ctx, inputs, output: setattr(ctx, "number", inputs[1]),
    )

    class Noting(_Model):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = [note(layer(x), k) for k, layer in enumerate(self.layers)]
            return torch.stack(parts).square().mean()

    torch.manual_seed(0)
    model, x = Noting(), torch.randn(8, 48, _DIM)
    copy.deepcopy(model)(x).backward()
    expected, seen[:] = [*seen], []
    autockpt.optimize(model, "80%", sample_args=(x,))
    seen.clear()
    model(x).backward()
    assert seen == expected
