"""What programs change after a model was optimized is seen by its next step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from ladder_models import WIDTH, Block, Stack
from torch import nn
from training import differing, peak_bytes, train

import autockpt

X = torch.randn(256, 32, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 13:
            raise ValueError("thirteen is one too many")
        for layer in self.layers:
            x = x + torch.tanh(nn.functional.gelu(layer(x)))
        return x.square().mean()


def residual() -> nn.Module:
    torch.manual_seed(1)
    return Residual().train()


def optimized(model: nn.Module, budget: str | int = "90%", **options: Any) -> nn.Module:
    return autockpt.optimize(
        model, budget, sample_args=(X,), optimizer="adamw", method="greedy", **options
    )


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda m: m.register_forward_hook(lambda _, args, output: output * 1.5),
    "forward pre": lambda m: m.register_forward_pre_hook(lambda _, args: (args[0] * 1.5,)),
    "full backward": lambda m: m.register_full_backward_hook(
        lambda _, inner, outer: (inner[0] * 2,)
    ),
    "full backward pre": lambda m: m.register_full_backward_pre_hook(
        lambda _, outer: (outer[0] * 2,)
    ),
}


@pytest.mark.filterwarnings("ignore:a graph of the model is not in its plan:UserWarning")
@pytest.mark.row("hooks on modules", "registered and removed after the model was optimized")
@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_that_come_later(kind: str) -> None:
    """Dynamo does not look at hooks again by itself: they were ignored, without a word."""
    eager = residual()
    model = optimized(residual())
    for trained in (eager, model):
        handle = HOOKS[kind](trained.layers[1])
        trained.hooked = train(trained, (X,))
        handle.remove()
    assert differing(eager.hooked, model.hooked) == []
    assert differing(train(eager, (X,)), train(model, (X,))) == []


@pytest.fixture
def global_hook() -> Iterator[Callable[[], None]]:
    handles = []

    def register() -> None:
        handles.append(
            nn.modules.module.register_module_forward_hook(
                lambda module, args, output: output * 1.1 if isinstance(module, nn.Linear) else None
            )
        )

    yield register
    for handle in handles:
        handle.remove()


@pytest.mark.filterwarnings("ignore:.*falls back to the rung:UserWarning")
def test_hooks_on_all_modules_of_the_process(global_hook: Callable[[], None]) -> None:
    """They are in no graph: graphs ran without them."""
    torch.manual_seed(0)
    model = nn.Sequential(*[Block() for _ in range(4)])
    x = torch.randn(256, WIDTH)

    def loss_fn(y: torch.Tensor) -> torch.Tensor:
        return y.square().mean()

    eager = copy.deepcopy(model)
    autockpt.optimize(model, "80%", sample_args=(x,), loss_fn=loss_fn, method="greedy")
    assert autockpt.get_plan(model).rung == "whole"
    global_hook()
    expected = train(eager, (x,), loss_fn=loss_fn)
    assert differing(expected, train(model, (x,), loss_fn=loss_fn)) == []
    assert autockpt.get_plan(model).rung == "checkpoint"


def test_an_input_that_the_model_refuses_is_the_models_error() -> None:
    """A loop that skips bad batches went on without its plans, over the budget, unsaid."""
    model = optimized(residual(), "85%")
    budget = autockpt.get_plan(model).budget_bytes
    with pytest.raises(ValueError, match="thirteen is one too many"):
        model(X[:13])
    assert autockpt.get_plan(model) is not None
    assert peak_bytes(model, (X,)) <= budget


def test_parameters_that_are_unfrozen_bring_their_optimizers_state() -> None:
    """The state was that of the parameters that took gradients when the model was optimized."""
    model = residual()
    for layer in model.layers[:4]:
        layer.requires_grad_(False)
    optimized(model, "90%")
    for layer in model.layers:
        layer.requires_grad_(True)
    try:
        model(X).backward()
    except autockpt.BudgetError as error:
        optimized(model, error.minimum_peak_bytes)
        model(X).backward()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    assert peak_bytes(model, (X,)) <= autockpt.get_plan(model).budget_bytes


def test_the_state_of_parameters_that_are_frozen_later_stays_in_memory() -> None:
    """An optimizer keeps it: after the freeze, steps took 14% more than their budget."""
    model = residual()
    optimizer = torch.optim.AdamW(model.parameters())
    autockpt.optimize(model, "90%", optimizer=optimizer, method="greedy")
    model(X).backward()
    optimizer.step()
    state_bytes = autockpt.get_plan(model).fixed.optimizer_bytes
    optimizer.zero_grad()
    for layer in model.layers[:4]:
        layer.requires_grad_(False)
    model(X).backward()
    assert autockpt.get_plan(model).fixed.optimizer_bytes == state_bytes


class _TwoPaths(Residual):
    squares = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loss = super().forward(x)
        return loss * loss if self.squares else loss


@pytest.mark.filterwarnings("ignore:a graph of the model is not in its plan:UserWarning")
def test_another_path_is_planned_after_a_users_profiler_has_ended() -> None:
    """The step after the new path was to plan anew: beside a profiler it cannot, and raised."""
    torch.manual_seed(1)
    model = optimized(_TwoPaths().train())
    eager = copy.deepcopy(model)
    del eager.__dict__["forward"]
    known = autockpt.get_plan(model)
    for trained in (model, eager):
        trained.squares = True
        first = train(trained, (X,), num_steps=1)
        with torch.profiler.profile(profile_memory=True):
            under = train(trained, (X,))
        if trained is model:
            assert autockpt.get_plan(model) is known
        trained.record = [first, under, train(trained, (X,))]
    for expected, got in zip(eager.record, model.record, strict=True):
        assert differing(expected, got) == []
    assert autockpt.get_plan(model) is not known


class _Dropped(Stack):
    """Layers dropped by a draw that Python reads."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            if torch.rand(()).item() > 0.2:
                x = block(x)
        return self.head(x).square().mean()


@pytest.mark.filterwarnings("ignore:.*falls back to the rung:UserWarning")
@pytest.mark.row("dropout, stochastic depth", "layers dropped by a draw that Python reads")
def test_layers_dropped_at_random_are_planned_for_a_full_draw() -> None:
    """One draw was planned and measured: where it dropped much, later steps went over."""
    for seed in (0, 2):
        torch.manual_seed(seed)
        model = _Dropped().train()
        eager = copy.deepcopy(model)
        try:
            optimized(model, "85%")
        except autockpt.BudgetError as error:
            optimized(model, error.minimum_peak_bytes)
        assert differing(train(eager, (X,)), train(model, (X,))) == []
        budget = autockpt.get_plan(model).budget_bytes
        for draw in range(6):
            torch.manual_seed(draw)
            assert peak_bytes(model, (X,)) <= budget
