"""Calls of the model under no_grad in a training step: plans count them where they add memory."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from loops import Blocks, Step, batches, peak_bytes, train
from torch import nn

import autockpt
from autockpt.dispatch.lookup import optimized_forward
from autockpt.dispatch.needs import forward_alone_bytes
from autockpt.dispatch.without_gradients import CallsWithoutGradients

X, Y = batches(2)


def _eager_peak_bytes(model: nn.Module, step: Step) -> int:
    eager = copy.deepcopy(model)
    optimizer = torch.optim.SGD(eager.parameters(), lr=1e-2)
    return peak_bytes(eager, [X, Y], lambda: step(eager, optimizer, 0))


def _step_peak_bytes(model: nn.Module, step: Step) -> int:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    model.zero_grad()
    return peak_bytes(model, [X, Y], lambda: step(model, optimizer, 9))


def _with_reference(model: nn.Module, optimizer: torch.optim.Optimizer, _: int) -> torch.Tensor:
    """As a preference loss whose reference is the model itself, with adapters off."""
    optimizer.zero_grad()
    output = model(X)
    with torch.no_grad():
        reference = model(X)
    loss = (output - 0.5 * reference).square().mean()
    loss.backward()
    optimizer.step()
    return loss


def _with_metric(model: nn.Module, optimizer: torch.optim.Optimizer, _: int) -> torch.Tensor:
    optimizer.zero_grad()
    loss = model(X).square().mean()
    with torch.inference_mode():
        model.eval()
        model(X)
        model.train()
    loss.backward()
    optimizer.step()
    return loss


def _in_a_pair(model: nn.Module, optimizer: torch.optim.Optimizer, _: int) -> torch.Tensor:
    optimizer.zero_grad()
    chosen = model(X)
    with torch.no_grad():
        reference = model(X)
    loss = (chosen - model(Y)).square().mean() + (chosen - reference).square().mean()
    loss.backward()
    optimizer.step()
    return loss


@pytest.mark.row("calls of the model under no_grad in a step", "a reference pass, a metric, a pair")
@pytest.mark.parametrize(
    ("step", "share"), [(_with_reference, 0.75), (_with_metric, 0.75), (_in_a_pair, 0.6)]
)
def test_a_call_between_forward_and_backward_is_counted(
    step: Step, share: float, recwarn: pytest.WarningsRecorder
) -> None:
    """What the waiting call had saved and what the forward under no_grad needed were in memory
    together, which no plan counted: a step took 1.30 times its budget without a word."""
    torch.manual_seed(0)
    model = Blocks()
    budget_bytes = int(share * _eager_peak_bytes(model, step))
    trained = train(model, step, budget=budget_bytes)
    assert trained.is_same
    assert trained.num_plans == [1, 2, 2, 2, 2]
    told = [str(each.message) for each in recwarn]
    assert sum("without gradients between its forward and its backward" in t for t in told) == 1
    assert _step_peak_bytes(model, step) <= budget_bytes
    assert autockpt.get_plan(model).predicted_peak_bytes <= budget_bytes


@pytest.mark.usefixtures("recwarn")
def test_a_share_stays_one_of_the_plain_step() -> None:
    torch.manual_seed(0)
    model = Blocks()
    shares = []

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> torch.Tensor:
        loss = _with_reference(model, optimizer, number)
        plan = autockpt.get_plan(model)
        if plan is not None:
            shares.append(plan.budget_bytes)
        return loss

    trained = train(model, step, budget="75%")
    assert trained.is_same
    assert trained.num_plans[-1] == 2
    assert len(set(shares)) == 1
    assert _step_peak_bytes(model, _with_reference) <= shares[0]


@pytest.mark.usefixtures("recwarn")
def test_the_ledger_names_such_calls_if_they_are_the_peak() -> None:
    torch.manual_seed(0)
    model = Blocks()
    train(model, _with_reference, budget=int(0.95 * _eager_peak_bytes(model, _with_reference)))
    forward = optimized_forward(model)
    (learned,) = forward._habits.without_gradients._bytes.values()
    plan = autockpt.get_plan(model)
    assert plan.ledger["calls in between"] == learned
    assert autockpt.Plan.from_json(plan.to_json()) == plan


def test_if_the_budget_has_room_nothing_is_planned_or_said() -> None:
    torch.manual_seed(0)
    model = Blocks()
    budget_bytes = int(1.05 * _eager_peak_bytes(model, _with_reference))
    assert train(model, _with_reference, budget=budget_bytes).num_plans == [1] * 5


def _plain(model: nn.Module, optimizer: torch.optim.Optimizer, _: int) -> torch.Tensor:
    optimizer.zero_grad()
    loss = model(X).square().mean()
    loss.backward()
    optimizer.step()
    return loss


def test_evaluation_between_steps_changes_nothing() -> None:
    torch.manual_seed(0)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> torch.Tensor:
        with torch.no_grad():
            model(X)
        loss = _plain(model, optimizer, number)
        with torch.no_grad():
            model(X)
        return loss

    model = Blocks()
    budget_bytes = int(0.8 * _eager_peak_bytes(model, _plain))
    trained = train(model, step, budget=budget_bytes, keeps_outputs=True)
    assert trained.is_same
    assert trained.num_plans == [1] * 5


def test_what_is_known_does_not_grow_with_the_budget_it_is_rounded_for() -> None:
    """A plan that exceeds the budget, because none fits, has a larger one, to parts of which the
    need was rounded up anew: one more plan was made for the same calls."""
    plan = autockpt.plan(Blocks(), "90%", optimizer="sgd", method="greedy", sample_args=(X,))
    num_bytes = forward_alone_bytes(plan)
    calls = CallsWithoutGradients()
    for part_bytes in (num_bytes, num_bytes - 1):
        calls.learn("kind", dataclasses.replace(plan, budget_bytes=128 * part_bytes))
    assert calls._bytes == {"kind": num_bytes}


@pytest.mark.usefixtures("recwarn")
def test_a_copy_knows_of_them() -> None:
    torch.manual_seed(0)
    model = Blocks()
    budget_bytes = int(0.75 * _eager_peak_bytes(model, _with_reference))
    train(model, _with_reference, budget=budget_bytes)
    twin = copy.deepcopy(model)
    assert _step_peak_bytes(twin, _with_reference) <= budget_bytes
    assert optimized_forward(twin).num_plans == 2
