"""The guard while training, on the CPU: what the allocator counts is injected, as are failures."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import autockpt
from autockpt.dispatch.forward import OptimizedForward
from autockpt.verify import device_memory
from autockpt.verify.bits import same_bits

_BATCH = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))


class Allocator:
    """What an accelerator's allocator would say; its peak is set when a backward has ended."""

    def __init__(self) -> None:
        self.allocated_bytes = 5000
        self.peak_bytes = 5000
        self.num_released = 0

    def usage(self, _: torch.device) -> device_memory.Usage:
        return device_memory.Usage(
            allocated_bytes=self.allocated_bytes,
            peak_bytes=self.peak_bytes,
            reserved_bytes=self.peak_bytes + 7000,
        )

    def release(self, _: torch.device) -> None:
        self.num_released += 1


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    """Lets the CPU pass for an accelerator."""
    made = Allocator()
    monkeypatch.setattr(device_memory, "has_own_memory", lambda _: True)
    monkeypatch.setattr(device_memory, "usage", made.usage)
    monkeypatch.setattr(device_memory, "release", made.release)
    return made


def _model(*more: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Linear(32, 32), nn.GELU(), nn.Dropout(0.1)]
    return nn.Sequential(*layers, *more, nn.Linear(32, 1))


def _optimized(model: nn.Module, budget: int | str = "85%", **how: Any) -> nn.Module:
    return autockpt.optimize(
        model,
        budget,
        sample_args=(_BATCH,),
        optimizer="sgd",
        method="greedy",
        **{"verify": False} | how,
    )


def _step(model: nn.Module) -> None:
    model.zero_grad()
    model(_BATCH).sum().backward()


def _plan(model: nn.Module) -> autockpt.Plan:
    plan = autockpt.get_plan(model)
    assert plan is not None
    return plan


def _assert_same_training(ours: nn.Module, eager: nn.Module, num_steps: int = 2) -> None:
    """Both models have been trained alike, and go on alike."""
    states = []
    for model in (ours, eager):
        torch.manual_seed(3)
        for _ in range(num_steps):
            _step(model)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    for mine, its in zip(ours.buffers(), eager.buffers(), strict=True):
        assert same_bits(mine, its)
    for mine, its in zip(ours.parameters(), eager.parameters(), strict=True):
        assert mine.grad is not None
        assert its.grad is not None
        assert same_bits(mine.grad, its.grad)


def _graph(model: nn.Module) -> Any:
    forward = model.__dict__["forward"]
    assert isinstance(forward, OptimizedForward)
    (planned,) = set(forward._maker.store._forwards.values())
    return planned.compiled.backend.graphs[0]  # type: ignore[attr-defined]


def _failing(allocator: Allocator, allocated_bytes: int) -> Callable[[list[Any]], Any]:
    """A graph that runs out of memory once so much is allocated beside what was before."""

    def run(_: list[Any]) -> Any:
        torch.rand(3)  # a graph draws before it fails
        allocator.allocated_bytes += allocated_bytes
        raise torch.OutOfMemoryError("injected")

    return run


def _room(plan: autockpt.Plan, share: float) -> int:
    """What a step allocates that gets as far as a share of its budget."""
    return int(share * plan.budget_bytes) - plan.fixed.resting_bytes


def test_a_step_over_its_budget_is_planned_again_with_the_difference_taken_off(
    allocator: Allocator,
) -> None:
    model, eager = _model(), _model()
    _optimized(model)
    before = _plan(model)
    excess_bytes = 3000
    # What was allocated before the call counts as the plan says, whatever else is on the device.
    peak_bytes = allocator.allocated_bytes + before.budget_bytes - before.fixed.resting_bytes
    _step(model)
    allocator.peak_bytes = 0
    model.zero_grad()
    output = model(_BATCH).sum()
    allocator.peak_bytes = peak_bytes + excess_bytes
    output.backward()
    assert _plan(model) is before
    with pytest.warns(UserWarning, match="step 2 of a plan for Sequential took") as told:
        _assert_same_training(model, eager)
    (warning,) = told
    text = str(warning.message)
    assert f"{autockpt.format_bytes(excess_bytes)} more than the budget" in text
    assert autockpt.format_bytes(before.predicted_peak_bytes) in text
    assert "planned again" in text
    after = _plan(model)
    assert after.budget_bytes == before.budget_bytes
    # A plan that misses its prediction by as much fits as well.
    missed_bytes = excess_bytes + before.budget_bytes - before.predicted_peak_bytes
    assert after.predicted_peak_bytes <= before.budget_bytes - missed_bytes
    assert after.recompute_ns > before.recompute_ns
    assert f"with {autockpt.format_bytes(missed_bytes)} less" in after.notes[-1]
    # What no plan can mend is told once more, and no longer measured.
    model.__dict__["forward"]._guard._num_tightened = 3
    _over_budget(model, allocator)
    with pytest.warns(UserWarning, match="has planned 3 times with less, and stops"):
        _over_budget(model, allocator)
    _over_budget(model, allocator)
    assert _plan(model) is after


def _over_budget(model: nn.Module, allocator: Allocator) -> None:
    allocator.peak_bytes = 0
    model.zero_grad()
    output = model(_BATCH).sum()
    allocator.peak_bytes = 10**9
    output.backward()


def test_a_peak_of_before_the_step_says_nothing_about_it(allocator: Allocator) -> None:
    """A validation between steps may take more than the budget."""
    model = _optimized(_model())
    allocator.peak_bytes = 10**12
    for _ in range(2):
        _step(model)
    assert _plan(model).notes == _plan(_optimized(_model())).notes


def test_a_forward_that_runs_out_of_memory_is_planned_tighter_and_run_again(
    allocator: Allocator,
) -> None:
    """The step is bit-equal to eager's, with the draws of eager's, and training goes on."""
    model, eager = _model(), _model()
    _optimized(model)
    before = _plan(model)
    _graph(model).forward = _failing(allocator, _room(before, 0.9))
    with pytest.warns(UserWarning, match="forward of a step of Sequential ran out of memory"):
        _assert_same_training(model, eager)
    after = _plan(model)
    assert allocator.num_released == 1
    assert after.predicted_peak_bytes <= 0.9 * before.budget_bytes < before.predicted_peak_bytes
    assert after.budget_bytes == before.budget_bytes


def test_if_no_plan_is_tighter_the_plan_stays_and_the_error_is_raised(
    allocator: Allocator,
) -> None:
    minimum_bytes = _plan(_optimized(_model())).minimum_peak_bytes
    model = _optimized(_model(), budget=minimum_bytes)
    before = _plan(model)
    _graph(model).forward = _failing(allocator, _room(before, 0.9))
    with (
        pytest.warns(UserWarning, match=r"No plan fits with .* so the plan stays. Raise the budg"),
        pytest.raises(torch.OutOfMemoryError, match="injected") as raised,
    ):
        _step(model)
    assert _plan(model) is before
    assert raised.value.__notes__ == ["autockpt has no tighter plan to run this step again."]


def test_a_backward_that_runs_out_of_memory_raises_and_the_next_step_is_tighter(
    allocator: Allocator,
) -> None:
    model, eager = _model(), _model()
    _optimized(model)
    before = _plan(model)
    # Little was free already; at least a twentieth is taken off.
    _graph(model).backward = _failing(allocator, _room(before, 0.99))
    with pytest.raises(torch.OutOfMemoryError, match="injected") as raised:
        _step(model)
    assert "it plans the next step tighter" in raised.value.__notes__[0]
    allocator.peak_bytes = 0
    with pytest.warns(UserWarning, match="backward of a step of Sequential ran out of memory"):
        _assert_same_training(model, eager)
    assert _plan(model).predicted_peak_bytes <= 0.95 * before.budget_bytes


def test_statistics_of_batches_are_not_updated_twice(allocator: Allocator) -> None:
    """AOTAutograd counts a write to `num_batches_tracked` before the graph runs that makes it."""
    model, eager = _model(nn.BatchNorm1d(32)), _model(nn.BatchNorm1d(32))
    _optimized(model)
    before = _plan(model)
    for each in (model, eager):
        torch.manual_seed(2)
        _step(each)
    run, graph = _failing(allocator, _room(before, 0.9)), _graph(model)
    graph.forward = run
    with pytest.warns(UserWarning, match="ran out of memory.*has planned again"):
        _assert_same_training(model, eager)
    # The graph has updated the statistics already when the next call fails.
    update, graph = _graph(model).forward, _graph(model)

    def update_and_fail(args: list[Any]) -> Any:
        update(args)
        run(args)

    graph.forward = update_and_fail
    with pytest.raises(torch.OutOfMemoryError, match="injected") as raised:
        _step(model)
    assert "cannot run this step again" in raised.value.__notes__[0]


class Counting(nn.Module):
    """Counts its calls in Python, behind a graph break and before what runs out of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _model()
        self.calls = 0
        self.fails: Callable[[], None] = lambda: None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        hidden = self.body(values)
        if hidden.sum().item() > 1e9:
            hidden = -hidden
        self.fails()
        return hidden


@pytest.mark.usefixtures("allocator")
def test_a_forward_that_may_have_changed_the_model_is_not_run_again() -> None:
    with pytest.warns(UserWarning, match="falls back to the rung"):
        model = _optimized(Counting(), budget="200%")
    assert _plan(model).rung != "whole"

    def fail() -> None:
        raise torch.OutOfMemoryError("injected")

    model.fails = fail  # type: ignore[assignment]
    with pytest.raises(torch.OutOfMemoryError, match="injected") as raised:
        _step(model)
    assert "cannot run this step again" in raised.value.__notes__[0]
    assert model.calls == 1
    model.fails = lambda: None  # type: ignore[assignment]
    with pytest.warns(UserWarning, match="forward of a step of Counting ran out of memory"):
        _step(model)


def test_nothing_is_read_on_the_cpu_or_if_you_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "usage", lambda _: pytest.fail("it was read"))
    _step(_optimized(_model()))
    monkeypatch.setattr(device_memory, "has_own_memory", lambda _: True)
    _step(_optimized(_model(), watch=False))
    with pytest.raises(TypeError, match="watch is 1; it must be True or False"):
        autockpt.optimize(_model(), "1GB", watch=1)  # type: ignore[arg-type]


def test_copies_are_watched_on_their_own(allocator: Allocator) -> None:
    model = _optimized(_model())
    twin = copy.deepcopy(model)
    allocator.peak_bytes = 0
    output = model(_BATCH).sum()
    allocator.peak_bytes = 10**9
    output.backward()
    twin(_BATCH)
    assert model.__dict__["forward"]._guard._finding is not None
    assert twin.__dict__["forward"]._guard._finding is None


def test_a_step_in_which_another_model_has_worked_is_not_judged(allocator: Allocator) -> None:
    """What an optimized model took between the forward and the backward of another was held against
    the other's budget, which was then planned again with as much less."""
    model, other = _model(), _model()
    _optimized(model), _optimized(other)
    _step(model)
    allocator.peak_bytes = 0
    model.zero_grad()
    output = model(_BATCH).sum()
    loss = output + other(_BATCH).sum()
    allocator.peak_bytes = allocator.allocated_bytes + 2 * _plan(model).budget_bytes
    loss.backward()
    before = _plan(model)
    _step(model)
    assert _plan(model) is before


def test_a_step_with_a_first_call_under_no_grad_is_not_judged(allocator: Allocator) -> None:
    """What it takes beside the call that waits is planned for, and not held back as well."""
    model = _model()
    _optimized(model)
    _step(model)
    allocator.peak_bytes = 0
    model.zero_grad()
    loss = model(_BATCH).sum()
    with torch.no_grad():
        model(_BATCH)
    allocator.peak_bytes = allocator.allocated_bytes + 2 * _plan(model).budget_bytes
    loss.backward()
    assert model.__dict__["forward"]._guard._finding is None
