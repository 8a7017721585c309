"""Models that no tracer follows still train within the budget, on a lower rung, bit for bit."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from ladder_models import (
    WIDTH,
    Averaging,
    Block,
    Breaking,
    Disabled,
    Foreign,
    Handed,
    Recurrent,
    Shared,
    Splitting,
    Stack,
    Yielding,
    built,
    optimized,
)
from torch import nn
from training import (
    assert_same_gradients,
    assert_same_training,
    differing,
    peak_bytes,
    train,
)

import autockpt
from autockpt.verify.bits import same_bits

BLOCKS = (Splitting, Yielding, Breaking)
KINDS = (Stack, Recurrent, Foreign, Averaging, Handed, Shared, Disabled)
QUICK = (Stack, Recurrent, Foreign, Handed, Breaking)


@pytest.mark.row("ladder of fallbacks", "models that cannot be captured, whole or at all")
@pytest.mark.parametrize(
    "kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.full) for k in KINDS]
)
def test_a_model_that_cannot_be_captured_checkpoints_calls(kind: type[nn.Module]) -> None:
    model, x = built(kind)
    eager = copy.deepcopy(model)
    keys = list(model.state_dict())
    messages = optimized(model, "65%", x)
    plan = autockpt.get_plan(model)
    assert plan.rung == "checkpoint"
    assert plan.recompute_ns > 0
    assert len(messages) == 1
    assert '"checkpoint".\nwhole: cannot capture' in messages[0]
    assert "ladder_models.py:" in messages[0]
    assert len(messages[0].splitlines()) == 3
    assert "fell back because of whole: cannot capture" in plan.notes[-1]
    assert plan.measured_peak_bytes <= plan.budget_bytes < plan.baseline_peak_bytes
    assert list(model.state_dict()) == keys
    assert_same_training(eager, model, (x,))
    # No trace of the calls that were made while it trained.
    assert all("forward" not in m.__dict__ for m in model.modules() if m is not model)


@pytest.mark.row("ladder of fallbacks", "models that cannot be captured, whole or at all")
@pytest.mark.parametrize(
    "kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.full) for k in BLOCKS]
)
def test_blocks_are_captured_where_the_loop_around_them_cannot_be(kind: type[nn.Module]) -> None:
    """Blocks that look the same were given one graph, and with it one of their plans, for all."""
    model, x = built(kind)
    eager = copy.deepcopy(model)
    messages = optimized(model, "75%", x)
    plan = autockpt.get_plan(model)
    assert plan.rung == "blocks"
    assert plan.num_graphs == 4
    assert '"blocks".\nwhole: cannot capture' in messages[0]
    assert "ladder_models.py:" in messages[0]
    assert len(messages[0].splitlines()) == 3
    assert plan.recompute_ns > 0
    assert plan.measured_peak_bytes <= plan.budget_bytes < plan.baseline_peak_bytes
    assert_same_training(copy.deepcopy(eager), pickle.loads(pickle.dumps(model)), (x,))
    assert_same_training(eager, model, (x,))


@pytest.mark.parametrize("kind", [Stack, Splitting])
def test_the_budget_binds_and_is_kept(kind: type[nn.Module]) -> None:
    model, x = built(kind)
    eager = copy.deepcopy(model)
    optimized(model, "65%", x)
    budget_bytes = autockpt.get_plan(model).budget_bytes
    assert peak_bytes(eager, (x,)) > budget_bytes >= peak_bytes(model, (x,))


def test_smaller_modules_are_checkpointed_where_larger_ones_do_not_fit() -> None:
    """Two halves of the model cannot be run again as wholes; their parts can."""

    class Halves(Stack):
        def __init__(self) -> None:
            super().__init__()
            self.halves = nn.ModuleList(nn.Sequential(*self.blocks[i : i + 2]) for i in (0, 2))
            del self.blocks

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for half in self.halves:
                x = half(x)
                assert x.abs().mean().item() < 1e6
            return self.head(x).square().mean()

    model, x = built(Halves)
    eager = copy.deepcopy(model)
    optimized(model, "55%", x)
    plan = autockpt.get_plan(model)
    again = {row.module for row in plan.rows if row.recompute_ns}
    assert again
    assert not again & {"halves.0", "halves.1"}
    assert_same_training(eager, model, (x,))


def test_autocast_is_what_it_was() -> None:
    model, x = built(Stack)
    eager = copy.deepcopy(model)
    losses = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        optimized(model, "75%", x)
    for trained in (model, eager):
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses.append(trained(x))
        losses[-1].backward()
    assert autockpt.get_plan(model).rung == "checkpoint"
    assert same_bits(*losses)
    assert_same_gradients(eager, model)


def test_errors_name_every_rung_and_leave_the_model_alone() -> None:
    model, x = built(Stack)
    before = copy.deepcopy(model)
    with pytest.raises(autockpt.BudgetError) as caught:
        optimized(model, "5%", x)
    first, *_, last = caught.value.__notes__
    assert first.startswith("The rung 'whole' was tried as well: cannot capture Stack")
    assert last.startswith("The rung 'eager' was tried as well: budget ")
    assert caught.value.minimum_peak_bytes > caught.value.budget_bytes
    assert all("forward" not in m.__dict__ for m in model.modules())
    assert_same_training(before, model, (x,))


def test_eager_is_the_last_rung() -> None:
    """Nothing may run twice, yet the budget is enough for the step as it is."""

    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.linear(x) * float(x.sum())).square().mean()

    model, x = built(Opaque)
    messages = optimized(model, "100%", x)
    plan = autockpt.get_plan(model)
    assert plan.rung == "eager"
    assert '"eager".\nwhole: cannot capture Opaque (' in messages[0]
    assert "checkpoint: cannot capture Opaque: none of its modules' calls" in plan.notes[-1]
    assert "eager: the model runs as it is" in str(plan)
    assert autockpt.Plan.from_json(plan.to_json()) == plan
    model(x).backward()
    with pytest.raises(autockpt.CaptureError) as caught:
        optimized(model, "90%", x)
    tried = [note.partition(" was tried as well: ")[0] for note in caught.value.__notes__]
    assert tried == [f"The rung '{rung}'" for rung in ("blocks", "checkpoint", "eager")]


@pytest.mark.row("ladder of fallbacks", "models that cannot be captured, whole or at all")
def test_a_model_whose_bits_change_when_captured() -> None:
    """A draw that nobody reads is dropped by the tracer, which moves the generator less."""

    class Wasteful(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.rand(3)
            return super().forward(x)

    class Captured(Stack):
        block = Wasteful

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
            return self.head(x).square().mean()

    model, x = built(Captured)
    eager = copy.deepcopy(model)
    messages = optimized(model, "65%", x)
    assert (
        "whole: verification failed: what was captured is not bit-equal to eager's step"
        in messages[0]
    )
    assert autockpt.get_plan(model).rung == "checkpoint"
    assert_same_training(eager, model, (x,))


@pytest.mark.full
def test_a_model_that_wanders_checkpoints_calls_in_the_end() -> None:
    """Every call takes another path, so that no captured graph is there to stay."""

    class Wandering(Stack):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            for number in range(4):
                x = self.blocks[(number * self.calls) % 4](x)
            return self.head(x).square().mean()

    model, x = built(Wandering)
    eager = copy.deepcopy(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        autockpt.optimize(model, "65%", optimizer="adamw", method="greedy")
        expected = train(eager, (x,), num_steps=11)
        got = train(model, (x,), num_steps=11)
    assert differing(expected, got) == []
    assert autockpt.get_plan(model).rung == "checkpoint"
    fell = [str(w.message) for w in caught if "falls back" in str(w.message)]
    assert len(fell) == 1
    assert "its code takes another path from call to call" in fell[0]


def test_without_verification_the_plan_says_so() -> None:
    model, x = built(Stack)
    eager = copy.deepcopy(model)
    optimized(model, "65%", x, verify=False)
    plan = autockpt.get_plan(model)
    assert plan.rung == "checkpoint"
    assert "not compared with eager: verify=False" in plan.notes
    assert plan.measured_peak_bytes <= plan.budget_bytes
    assert_same_training(eager, model, (x,))


def test_plan_goes_down_the_ladder_too() -> None:
    model, x = built(Stack)
    before = copy.deepcopy(model)
    plan = autockpt.plan(model, "65%", sample_args=(x,), method="greedy")
    assert plan.rung == "checkpoint"
    assert "checkpoint: nothing is captured; calls of modules are checkpointed" in str(plan)
    assert "whole: cannot capture Stack" in plan.notes[-1]
    assert autockpt.Plan.from_json(plan.to_json()) == plan
    for ours, theirs in zip(model.state_dict().values(), before.state_dict().values(), strict=True):
        assert same_bits(ours, theirs)


@pytest.mark.parametrize(
    "how", ["deepcopy", "torch.save", pytest.param("pickle", marks=pytest.mark.full)]
)
def test_copies_follow_the_plan(how: str) -> None:
    model, x = built(Stack)
    eager = copy.deepcopy(model)
    optimized(model, "65%", x)
    if how == "deepcopy":
        other = copy.deepcopy(model)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert autockpt.get_plan(other) == autockpt.get_plan(model)
    assert_same_training(eager, other, (x,))


@pytest.mark.row("gradient accumulation", "checkpointed calls")
@pytest.mark.parametrize("kind", [Stack, pytest.param(Splitting, marks=pytest.mark.full)])
def test_gradients_that_accumulate(kind: type[nn.Module]) -> None:
    model, x = built(kind)
    eager = copy.deepcopy(model)
    optimized(model, "75%", x)
    for trained in (model, eager):
        torch.manual_seed(3)
        for _ in range(3):
            trained(x).backward()
    assert_same_gradients(eager, model)


@pytest.mark.row("retain_graph=True", "checkpointed calls")
def test_retain_graph_and_gradients_of_gradients() -> None:
    """Checkpointed calls run again for every backward; nothing fixed stands in the way."""
    model, x = built(Averaging)
    eager = copy.deepcopy(model)
    optimized(model, "65%", x)
    results = []
    for trained in (model, eager):
        torch.manual_seed(3)
        loss = trained(x)
        loss.backward(retain_graph=True)
        loss.backward(retain_graph=True)
        weight = trained.head.weight
        (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
        gradient.square().sum().backward()
        results.append([*(p.grad for p in trained.parameters()), *trained.buffers()])
    for ours, theirs in zip(*results, strict=True):
        assert same_bits(ours, theirs)


class _Recurring(nn.Module):
    """A library's layers, of which more is held than their calls show."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(WIDTH, 64), nn.GELU(), nn.Dropout(0.2), nn.Linear(64, 16), nn.GELU()
        )
        self.lstm = nn.LSTM(16, 24, 2, dropout=0.3, batch_first=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.lstm(self.inner(x.view(8, 8, WIDTH)))
        return self.head(y[:, -1]).square().mean()


@pytest.mark.filterwarnings("ignore:.*falls back to the rung:UserWarning")
def test_the_least_that_is_named_was_measured() -> None:
    """It was a prediction: who raised the budget to it was told a higher one, twice."""
    torch.manual_seed(0)
    model, x = _Recurring().train(), torch.randn(64, WIDTH)
    options = {"sample_args": (x,), "optimizer": "adamw", "method": "greedy"}
    with pytest.raises(autockpt.BudgetError) as caught:
        autockpt.optimize(model, 1, **options)
    assert caught.value.budget_bytes == 1
    autockpt.optimize(model, caught.value.minimum_peak_bytes, **options)
