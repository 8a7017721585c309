"""`max_batch_size` is right to the unit: the batch found plans and fits, the next one does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import autockpt
from autockpt.batch import largest
from autockpt.batch.predicted import bisected
from autockpt_solvers import SolveStatus

WIDTH = 32
OPTIONS: dict[str, Any] = {
    "loss_fn": torch.sum,
    "optimizer": "sgd",
    "method": "uniform",  # what it finds does not depend on measured times
    "progress": False,
}


def _layers(number: int = 3) -> nn.Module:
    layers = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(number))
    return nn.Sequential(*layers)


def _deep() -> nn.Module:
    return _layers(9)


class Compared(nn.Module):
    """Its memory grows with the square of the batch, as with a loss over all pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return (y @ y.T).softmax(-1)


class Switching(nn.Module):
    """Above a size it runs other operations, as a library that chooses a kernel by size."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return y.exp().log().exp() if x.shape[0] > 20 else y


def _inputs(size: int) -> torch.Tensor:
    return torch.ones(size, WIDTH)


def _plan(model: nn.Module, budget: int, size: int) -> autockpt.Plan:
    return autockpt.plan(model, budget, sample_args=(_inputs(size),), **OPTIONS)


@pytest.mark.parametrize(
    ("make", "budget", "is_affine"),
    [(_deep, 140_000, True), (Compared, 90_000, False), (Switching, 80_000, False)],
)
def test_the_batch_found_fits_and_the_next_one_does_not_plan(
    make: Callable[[], nn.Module], budget: int, is_affine: bool
) -> None:
    model = make()
    answer = autockpt.max_batch_size(_inputs, model, budget, verify=False, **OPTIONS)
    size = answer.batch_size
    assert size > 4
    assert answer.is_affine is is_affine
    assert answer.plan.predicted_peak_bytes <= budget
    assert answer.verified_peak_bytes is None
    assert _plan(model, budget, size).predicted_peak_bytes == answer.plan.predicted_peak_bytes
    with pytest.raises(autockpt.BudgetError) as error:
        _plan(model, budget, size + 1)
    assert error.value.minimum_peak_bytes == answer.next_minimum_bytes > budget
    assert answer.limit == str(error.value)
    assert answer.limit_is_proven == (error.value.status is SolveStatus.INFEASIBLE)
    if not is_affine:
        return
    assert answer.num_captures == 4
    eager = answer.eager_batch_size
    assert eager is not None
    assert 0 < eager < size
    assert _plan(model, budget, eager).leaves_the_model
    assert not _plan(model, budget, eager + 1).leaves_the_model
    assert answer.checkpointed_batch_size == size
    text = str(answer)
    assert text.startswith(f"largest batch     {size}  (budget 136.72 KiB, cpu)")
    assert f"batch {size + 1}" in text
    assert f'"batch_size": {size}' in answer.to_json()


def test_a_step_that_needs_more_than_predicted_leads_to_the_size_below(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Verification runs real steps, and leaves the model and its gradients as they were."""
    model = _layers()
    found = autockpt.max_batch_size(_inputs, model, 60_000, verify=False, **OPTIONS)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def exceeding(model: nn.Module, budget: int, **options: Any) -> nn.Module:
        if len(options["sample_args"][0]) == found.batch_size:
            raise autockpt.BudgetError(budget_bytes=budget, minimum_peak_bytes=budget + 8)
        return autockpt.optimize(model, budget, **options)

    monkeypatch.setattr(largest, "optimize", exceeding)
    below = autockpt.max_batch_size(_inputs, model, 60_000, **OPTIONS)
    assert below.batch_size < found.batch_size
    assert "budget 58.59 KiB is too small" in below.limit
    assert below.verified_peak_bytes is not None
    assert below.verified_peak_bytes <= 60_000
    assert autockpt.get_plan(model) is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_inputs_may_be_keywords_and_the_search_may_be_bounded() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = _layers()

        def forward(self, x: torch.Tensor, *, scale: float) -> torch.Tensor:
            return self.layers(x) * scale

    model = Named()
    for made in (
        lambda n: {"x": _inputs(n), "scale": 2.0},
        lambda n: ((_inputs(n),), {"scale": 2.0}),
    ):
        answer = autockpt.max_batch_size(made, model, "1GB", at_most=6, verify=False, **OPTIONS)
        assert (answer.batch_size, answer.limit, answer.next_minimum_bytes) == (6, "", 0)
        assert "not tried: the search ends at" in str(answer)


def test_what_cannot_be_asked_is_refused() -> None:
    model = _layers()
    for changes, error, message in (
        ({"budget": "60%"}, ValueError, "which depends on the batch size"),
        ({"at_most": 0}, ValueError, "at_most is 0; it must be 1 or more"),
        ({"make_inputs": 3}, TypeError, "make_inputs is a int; it must be a function"),
        ({"make_inputs": lambda n: 3}, TypeError, r"make_inputs\(2\) returned a int"),
        ({"make_inputs": lambda n: _inputs(4)}, ValueError, "the same for every batch size"),
        ({"budget": "10kB"}, autockpt.BudgetError, "budget 9.77 KiB is too small"),
    ):
        asked = {"make_inputs": _inputs, "model": model, "budget": "60kB"} | changes | OPTIONS
        with pytest.raises(error, match=message):
            autockpt.max_batch_size(**asked)


def test_tokens_are_limited_by_the_length_that_allows_the_fewest() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.project(x)
            return (y @ y.transpose(1, 2)).softmax(-1) @ y

    found = autockpt.max_tokens_per_batch(
        lambda batch, length: torch.ones(batch, length, 8),
        Attending(),
        "200kB",
        (8, 32),
        verify=False,
        **OPTIONS,
    )
    short, long = found.by_length[8].batch_size, found.by_length[32].batch_size
    assert found.num_tokens == min((short + 1) * 8, (long + 1) * 32) - 1
    assert found.limiting_length == 32
    assert found.num_tokens // 32 == long
    assert found.num_tokens // 8 <= short
    assert "length 32" in str(found)
    with pytest.raises(ValueError, match="it must have one or more lengths"):
        autockpt.max_tokens_per_batch(lambda b, n: 0, Attending(), "1MB", ())


@given(low=st.integers(1, 50), last=st.integers(1, 5000), most=st.integers(50, 3000))
def test_halving_finds_the_last_size_that_fits(low: int, last: int, most: int) -> None:
    last = max(last, low)
    assert bisected(lambda size: size <= last, low=low, most=most) == min(last, most)
