"""Planning in the middle of a step: graphs that wait, gradients of gradients, torch.func."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import autockpt


class Critic(nn.Module):
    """Layers with BatchNorm, whose buffers a graph saves for its backward."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 128), nn.BatchNorm1d(128), nn.GELU(), nn.Linear(128, 32))
            for _ in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x.square().mean(1)


def _penalized(critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """The loss of WGAN-GP: a gradient penalty, and two calls whose graphs wait beside it."""
    mixed = (0.5 * real + 0.5 * fake).requires_grad_()
    score = critic(mixed)
    (slope,) = torch.autograd.grad(score.sum(), mixed, create_graph=True)
    penalty = (slope.norm(2, 1) - 1).square().mean()
    return critic(fake).mean() - critic(real).mean() + 10 * penalty


def _is_same_step(eager: nn.Module, model: nn.Module, loss: Callable[..., torch.Tensor]) -> bool:
    inputs = torch.randn(128, 32), torch.randn(128, 32)
    for module in (eager, model):
        module.zero_grad()
        loss(module, *inputs).backward()
    ours, theirs = ([*(p.grad for p in m.parameters()), *m.buffers()] for m in (model, eager))
    return all(map(torch.equal, ours, theirs))


@pytest.mark.row("planning between forwards and their backward", "BatchNorm, gradient penalty")
def test_planning_while_a_graph_waits_for_its_backward() -> None:
    """Steps on trial wrote BatchNorm's buffers back, and autograd refused the waiting backward."""
    torch.manual_seed(0)
    critic = Critic()
    eager = copy.deepcopy(critic)
    autockpt.optimize(critic, "1TB", optimizer="sgd", method="greedy")
    assert _is_same_step(eager, critic, _penalized)
    versions = [buffer._version for buffer in critic.buffers()]
    autockpt.optimize(critic, "80%", sample_args=(torch.randn(128, 32),), method="greedy")
    assert [buffer._version for buffer in critic.buffers()] == versions
    assert all(map(torch.equal, critic.buffers(), eager.buffers()))


@pytest.mark.row("gradients of gradients under a budget that binds", "BatchNorm, gradient penalty")
def test_gradients_of_gradients_from_the_second_step_on() -> None:
    """No graph can be differentiated twice, but checkpointed modules can."""
    torch.manual_seed(0)
    critic = Critic()
    autockpt.optimize(critic, "70%", optimizer="sgd", method="greedy")
    real, fake = torch.randn(128, 32), torch.randn(128, 32)
    with pytest.raises(autockpt.DoubleBackwardError, match="Run the step again"):
        _penalized(critic, real, fake)
    assert all(p.grad is None for p in critic.parameters())
    eager = copy.deepcopy(critic)
    autockpt.restore(eager)
    mixed = real.clone().requires_grad_()
    critic(mixed)
    eager(mixed)
    plan = autockpt.get_plan(critic)
    assert plan is not None
    assert plan.rung == "checkpoint"
    assert plan.recompute_ns > 0
    # It was at 1.25 times its budget, and nothing was said.
    with pytest.warns(UserWarning, match="to be differentiated again.*may exceed the budget"):
        assert _is_same_step(eager, critic, _penalized)


def test_transforms_of_torch_func_run_the_model_as_it_is() -> None:
    """Their tensors have no storage, on which planning failed with an error of torch's own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 1))
    eager, x = copy.deepcopy(model), torch.randn(4, 8)
    autockpt.optimize(model, "1TB")
    with pytest.warns(UserWarning, match=r"torch\.func's transforms Sequential runs as it is"):
        gradient = torch.func.grad(lambda x: model(x).sum())(x)
    assert torch.equal(gradient, torch.func.grad(lambda x: eager(x).sum())(x))
    assert autockpt.get_plan(model) is None


class Criterion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.norm = nn.Linear(32, 8), nn.BatchNorm1d(8)

    def forward(self, output: torch.Tensor) -> torch.Tensor:
        return self.norm(self.head(output)).square().mean() + output.square().mean()


@pytest.mark.parametrize("budget", ["1TB", "85%"])
def test_planning_leaves_a_criterion_with_parameters_alone(budget: str) -> None:
    """Trials left gradients in them, which the first step added to; a capture left fake ones."""
    torch.manual_seed(0)
    criterion, outer = Criterion(), nn.Linear(32, 32)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                *(nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32)) for _ in "abc")
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return outer(self.layers(x))

    model, version = Model(), criterion.norm.num_batches_tracked._version
    autockpt.optimize(
        model,
        budget,
        sample_args=(torch.randn(128, 32),),
        loss_fn=lambda output: criterion(output),
        method="greedy",
    )
    assert all(p.grad is None for p in [*criterion.parameters(), *outer.parameters()])
    assert criterion.norm.num_batches_tracked == 0
    assert criterion.norm.num_batches_tracked._version == version
