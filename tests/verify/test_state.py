"""State that a forward keeps, draws that are not torch's, inputs it writes into: nothing moves."""

from __future__ import annotations

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from tiny_models import build
from torch import nn
from training import assert_same_gradients, assert_same_training

import autockpt
from autockpt.verify.bits import same_bits
from autockpt.verify.step import _bits_sum


class _Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(nn.functional.gelu(layer(x)))
        return x


class WritesItsInput(_Body):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.mul_(1.1)
        return self.body(x).square().mean()


class RebindsABuffer(_Body):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ema", torch.zeros(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        self.ema = 0.9 * self.ema + 0.1 * x.detach().mean(0)
        return x.square().mean()


class KeepsATensor(_Body):
    def __init__(self) -> None:
        super().__init__()
        self.h = torch.zeros(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        self.h = 0.9 * self.h + 0.1 * x.detach().mean(0)
        return (x + self.h).square().mean()


class NumpyNoise(_Body):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.body(x) * float(np.random.rand())).square().mean()


class Builds(_Body):
    """Makes a table at its first forward, and notes that it did."""

    def __init__(self) -> None:
        super().__init__()
        self.built = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.built:
            self.table = torch.linspace(0, 1, 64)
            self.built = True
        return (self.body(x) * self.table).square().mean()


STATEFUL = (WritesItsInput, RebindsABuffer, KeepsATensor)


@pytest.mark.parametrize("kind", STATEFUL)
def test_verification_leaves_no_trace_and_finds_no_difference(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = kind(), torch.randn(256, 64)
    eager, own = copy.deepcopy(model), x.clone()
    autockpt.optimize(model, "85%", method="greedy", sample_args=(x,), optimizer="adamw")
    assert same_bits(x, own)
    attributes = {k: v for k, v in model.__dict__.items() if k != "forward"}
    assert attributes.keys() == eager.__dict__.keys()
    for name in ("h", "ema"):
        if hasattr(eager, name):
            assert same_bits(getattr(model, name), getattr(eager, name))
    assert_same_training(eager, model, (x,))


def test_a_model_that_builds_something_at_its_first_forward() -> None:
    torch.manual_seed(0)
    model, x = Builds(), torch.randn(256, 64)
    eager = copy.deepcopy(model)
    autockpt.optimize(
        model, "85%", method="greedy", sample_args=(x,), optimizer="adamw", verify=False
    )
    assert not model.built
    assert not hasattr(model, "table")
    with warnings.catch_warnings():
        # The first call takes another path than all that follow.
        warnings.filterwarnings("ignore", message=".*is not in its plan")
        assert_same_training(eager, model, (x,))


def test_planning_keeps_what_python_keeps() -> None:
    class Counts(_Body):
        def __init__(self) -> None:
            super().__init__()
            self.seen, self.counts, self.flag = [], {"n": 0}, False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.n = getattr(self, "n", 0) + 1
            self.counts["n"] += 1
            self.seen.append(0)
            self.flag = not self.flag
            return self.body(x).square().mean()

    torch.manual_seed(0)
    model = Counts()
    autockpt.plan(model, "200%", sample_args=(torch.randn(256, 64),))
    assert not hasattr(model, "n")
    assert model.seen == []
    assert model.counts == {"n": 0}
    assert model.flag is False


def test_planning_leaves_every_generator_as_it_was() -> None:
    torch.manual_seed(0)
    model, x = NumpyNoise(), torch.randn(256, 64)
    np.random.seed(3)
    random.seed(3)
    before = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())
    autockpt.plan(model, "200%", sample_args=(x,))
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.row("autocast in bf16 on the CPU", "one layer used three times, and once uncast")
@pytest.mark.parametrize("uncast_use", [None, 0, 1, 2])
def test_a_layer_used_twice_under_autocast(uncast_use: int | None) -> None:
    """Eager casts its weight once and sums its gradients in low precision; traced, it did not.

    A use in float32 comes into the sum where eager runs it: before, between or behind the casts.
    """

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for use in range(3):
                if use == uncast_use:
                    x = x + torch.sin(self.l.weight).sum(0)
                x = torch.tanh(self.l(x))
            return x.float().square().mean()

    torch.manual_seed(0)
    model, x = Twice(), torch.randn(256, 64)
    eager = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        autockpt.optimize(model, "90%", method="greedy", sample_args=(x,), verify=False)
        losses = [eager(x), model(x)]
    for loss in losses:
        loss.backward()
    assert_same_gradients(eager, model)


def test_packed_sequences_are_seen_inside_of_a_batch() -> None:
    """Two sequences packed into one must not attend to each other, planned on whatever batch."""

    class Wrapper(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.model(**batch).loss

    tiny = build("llama")
    model = Wrapper(tiny.model)
    eager = copy.deepcopy(model)
    plain = torch.arange(32).repeat(4, 1)
    packed = torch.arange(16).repeat(4, 2)
    batch = {**tiny.kwargs, "position_ids": plain}
    autockpt.optimize(model, "90%", method="greedy", sample_args=(batch,), verify=False)
    batch = {**tiny.kwargs, "position_ids": packed}
    assert torch.allclose(model(batch), eager(batch), atol=1e-6)


def test_an_error_at_the_first_call_leaves_the_model_as_it_was() -> None:
    tiny = build("sequential")
    before = set(tiny.model.__dict__)
    autockpt.optimize(tiny.model, 1000, method="greedy")
    with pytest.raises(autockpt.BudgetError):
        tiny.model(*tiny.args)
    autockpt.restore(tiny.model)
    assert set(tiny.model.__dict__) == before
    tiny.model(*tiny.args).sum().backward()


def test_another_float_follows_the_same_plan() -> None:
    class Scaled(_Body):
        def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
            return (self.body(x) * scale).square().mean()

    torch.manual_seed(0)
    model, x = Scaled(), torch.randn(256, 64)
    eager = copy.deepcopy(model)
    autockpt.optimize(model, "85%", method="greedy", sample_args=(x, 0.5), verify=False)
    first = autockpt.get_plan(model)
    for scale in (0.5, 0.7):
        model.zero_grad()
        eager.zero_grad()
        model(x, scale).backward()
        eager(x, scale).backward()
        assert_same_gradients(eager, model)
    assert autockpt.get_plan(model) is first


@pytest.mark.row("graph breaks and Python control flow", "a branch that changes")
def test_another_path_is_said_and_planned_at_the_next_call() -> None:
    class Branches(_Body):
        def __init__(self) -> None:
            super().__init__()
            self.double = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.body(x)
            if self.double:
                x = self.body(torch.sin(x))
            return x.square().mean()

    torch.manual_seed(0)
    model, x = Branches(), torch.randn(256, 64)
    eager = copy.deepcopy(model)
    autockpt.optimize(model, "92%", method="greedy", sample_args=(x,), verify=False)
    model(x).backward()
    model.zero_grad()
    first = autockpt.get_plan(model)
    model.double = eager.double = True
    with pytest.warns(UserWarning, match="is not in its plan"):
        loss = model(x)
    loss.backward()
    eager(x).backward()
    assert_same_gradients(eager, model)
    model.zero_grad()
    model(x)
    assert autockpt.get_plan(model) is not first


def test_a_loss_that_is_no_scalar_is_said() -> None:
    model = nn.Linear(8, 8)
    with pytest.raises(
        autockpt.NotTrainableError, match=r"loss_fn returned a tensor of shape \(4, 8\)"
    ):
        autockpt.optimize(
            model, "90%", method="greedy", sample_args=(torch.randn(4, 8),), loss_fn=lambda o: o * 2
        )


def test_optimizing_under_no_grad_plans_a_training_step() -> None:
    torch.manual_seed(0)
    tiny = build("sequential")
    with torch.no_grad():
        autockpt.optimize(tiny.model, "85%", method="greedy", sample_args=tiny.args)
    assert autockpt.get_plan(tiny.model) is not None


def test_parts_that_do_not_train_are_planned_so_and_stay_so() -> None:
    tiny = build("sequential")
    tiny.model.eval()
    plan = autockpt.plan(tiny.model, "200%", sample_args=tiny.args)
    autockpt.optimize(tiny.model, "200%", sample_args=tiny.args)
    optimized = autockpt.get_plan(tiny.model)
    assert optimized is not None
    assert plan.predicted_peak_bytes == optimized.predicted_peak_bytes
    assert not any(module.training for module in tiny.model.modules())


def test_the_sum_of_bits_of_doubles_is_a_number_that_a_tensor_holds() -> None:
    """Sums of integers of 64 bits are longer, and a trial that freed doubles ended in an error."""
    doubles = torch.zeros(3, 4096, dtype=torch.int64)
    doubles[:, 0] = 2**62
    found = _bits_sum(doubles.view(torch.float64))
    assert int(torch.as_tensor(found)) == 2**62
    doubles[1, 7] = 5
    assert _bits_sum(doubles.view(torch.float64)) == found + 5
