"""Whether a step fits a device, and what would help, computed without running anything."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import autockpt
from autockpt.fitting.layers import checkpointed_layers
from autockpt_solvers import Problem, Result, baseline_schedule, simulate, solve

_WIDTH = 256


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_WIDTH)
        self.up, self.down = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Block() for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x.square().mean()


def _inputs(batch: int) -> dict[str, torch.Tensor]:
    return {"x": torch.zeros(batch, 64, _WIDTH, device="meta")}


def _fit(budget: str | None = None, **kwargs: Any) -> autockpt.Fit:
    with torch.device("meta"):
        model = _Model()
    return autockpt.fit(model, "h100", budget=budget, sample_kwargs=_inputs(64), **kwargs)


@pytest.fixture(scope="module")
def tight() -> autockpt.Fit:
    return _fit("240MiB", make_inputs=_inputs)


def test_a_step_that_fits_with_a_plan(tight: autockpt.Fit) -> None:
    as_it_is, layered, planned = tight.ways
    assert not as_it_is.fits
    assert planned.fits
    assert planned.peak_bytes <= 240 * 2**20 < as_it_is.peak_bytes
    # The plan recomputes less than every layer, and needs no more than it may.
    assert planned.overhead < layered.overhead < 0.5
    assert as_it_is.step_ns < planned.step_ns < layered.step_ns
    assert tight.fits
    assert not tight.fits_as_it_is
    text = str(tight)
    assert text.startswith("fits with a plan: peak ")
    assert "every layer checkpointed" in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_the_largest_batches_are_those_that_plan(tight: autockpt.Fit) -> None:
    as_it_is, layered, planned = (way.largest_batch for way in tight.ways)
    assert as_it_is is not None
    assert layered is not None
    assert planned is not None
    assert as_it_is < 64 <= layered <= planned
    with torch.device("meta"):
        model = _Model()
    for batch, fits in ((as_it_is, True), (as_it_is + 1, False)):
        answer = autockpt.plan(
            model, "100%", sample_kwargs=_inputs(batch), method="none", device="h100"
        )
        assert (answer.baseline_peak_bytes <= 240 * 2**20) is fits
    assert tight.best_batch is not None


def test_changes_are_computed(tight: autockpt.Fit) -> None:
    changes = {change.what: change for change in tight.changes}
    plain = changes["SGD without momentum"]
    # AdamW keeps two numbers for each parameter.
    parameters = dict(tight.parts)["parameters"]
    assert tight.ways[0].peak_bytes - plain.peak_bytes >= 2 * parameters * 0.99
    half = changes["a batch of 32"]
    assert half.peak_bytes < tight.ways[0].peak_bytes
    assert half.step_ns is not None
    assert half.step_ns < tight.ways[0].step_ns


def test_the_parts_add_up_to_the_peak_of_the_plan(tight: autockpt.Fit) -> None:
    assert tight.plan is not None
    assert sum(dict(tight.parts).values()) == tight.plan.predicted_peak_bytes
    assert tight.context_bytes == 512 * 2**20


def test_the_parts_add_up_to_the_peak_of_the_step_as_it_is() -> None:
    answer = _fit()
    assert sum(size for _, size in answer.parts) == answer.ways[0].peak_bytes
    lines = str(answer).splitlines()
    at = next(at for at, line in enumerate(lines) if line.split()[:1] == ["peak"][:1] and at > 5)
    assert lines[at].split("peak")[1].strip() in lines[0]
    assert "beside it, the driver's context (assumed)  512.00 MiB" in lines[at + 1]


def test_an_optimizer_that_allocates_less_has_the_peak_of_its_own_step() -> None:
    """AdamW's transients stayed in the peak of optimizers that have none."""
    answer = _fit()
    changes = {change.what: change for change in answer.changes}
    with torch.device("meta"):
        model = _Model()
    plan = autockpt.plan(
        model,
        "100%",
        sample_kwargs=_inputs(64),
        optimizer="sgd",
        method="none",
        device="h100",
    )
    assert changes["SGD without momentum"].peak_bytes == plan.baseline_peak_bytes


def test_no_plan_is_worse_than_checkpointing_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that had found a worse plan showed that one, and fewer samples for a batch."""

    def poor(problem: Problem, **how: Any) -> Result:
        return solve(problem, **{**how, "method": "full"})

    monkeypatch.setattr("autockpt.lower.problem.solve", poor)
    monkeypatch.setattr("autockpt.fitting.step.solve", poor)
    monkeypatch.setattr("autockpt.fitting.batches.largest_planned", lambda *_, **__: 0)
    answer = _fit("240MiB", make_inputs=_inputs)
    as_it_is, layered, planned = answer.ways
    assert layered.fits
    assert planned.overhead <= layered.overhead
    assert answer.plan is not None
    assert answer.plan.overhead == planned.overhead
    assert planned.largest_batch is not None
    assert layered.largest_batch is not None
    assert planned.largest_batch >= layered.largest_batch > as_it_is.largest_batch
    # The plan that is found for another optimizer, in a little more room, serves this one too.
    for change in answer.changes:
        assert change.overhead is not None
        assert change.overhead <= planned.overhead


def test_the_answer_is_a_value(tight: autockpt.Fit) -> None:
    values = json.loads(tight.to_json())
    assert values["device"] == "h100"
    assert values["fits"] is True
    assert values["fits_as_it_is"] is False
    assert len(values["ways"]) == 3


def test_a_step_that_fits_as_it_is() -> None:
    answer = _fit()
    assert answer.fits_as_it_is
    assert answer.budget_bytes == int(79.11 * 2**30) - 512 * 2**20
    assert str(answer).startswith("fits as it is: peak ")


def test_a_step_that_does_not_fit() -> None:
    answer = _fit("60MB")
    assert not answer.fits
    assert answer.plan is None
    assert "does not fit 57.22 MiB: no plan needs less than " in str(answer)


def test_a_variant_that_cannot_be_recorded_is_a_note() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2, device="meta")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no such size")

    answer = _fit(variants={"a broken model": lambda: autockpt.Variant(model=Broken(), args=(1,))})
    assert any("a broken model: cannot be recorded" in note for note in answer.notes)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown device 'h1000'"):
        autockpt.fit(nn.Linear(1, 1), "h1000")
    with pytest.raises(ValueError, match="give an amount of memory"):
        autockpt.fit(nn.Linear(1, 1), "h100", budget="60%")
    for batch in (0, -3):
        with pytest.raises(ValueError, match=f"batch is {batch}; it must be 1 or more"):
            autockpt.fit(nn.Linear(1, 1), "h100", batch=batch)
    with pytest.raises(TypeError, match="make_inputs is a int; it must be a function"):
        autockpt.fit(nn.Linear(1, 1), "h100", make_inputs=3)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError,
        match=r"budget is 186\.26 GiB, more than the 78\.61 GiB that a step can have on h100: "
        r"79\.11 GiB less 512\.00 MiB",
    ):
        autockpt.fit(nn.Linear(1, 1), "h100", budget="200GB")


@pytest.mark.parametrize(
    ("budget", "budget_bytes"),
    [
        ("80% of device", 0.8 * 79.11 * 2**30),
        ("80% of free", 0.8 * (79.11 - 0.5) * 2**30),
        ("auto", (0.95 * 79.11 - 0.5) * 2**30),
    ],
)
def test_budgets_of_the_device_are_those_of_its_table(budget: str, budget_bytes: float) -> None:
    answer = _fit(budget)
    assert 0 <= budget_bytes - answer.budget_bytes <= 64 * 2**20


def test_a_variant_that_the_model_cannot_be_is_a_note() -> None:
    def refused() -> autockpt.Variant:
        raise ValueError("no adapters for convolutions\nat all")

    answer = _fit(variants={"adapters": refused})
    assert "adapters: not for this model: no adapters for convolutions" in answer.notes


def test_checkpointed_layers_save_what_passes_between_them() -> None:
    with torch.device("meta"):
        model = _Model()
    plan = autockpt.plan(model, "100%", sample_kwargs=_inputs(64), method="none", device="h100")
    assert plan.graph is not None
    schedule = checkpointed_layers(plan.graph)
    assert schedule is not None
    timeline = simulate(plan.graph, schedule)
    none = simulate(plan.graph, baseline_schedule(plan.graph))
    saved = sum(plan.graph.storages[s].size_bytes for s in timeline.saved)
    between = 64 * 64 * _WIDTH * 4
    assert 3 * between <= saved <= 6 * between
    assert timeline.peak_bytes < none.peak_bytes
    assert timeline.recompute_ns > 0


def test_without_layers_there_is_nothing_to_checkpoint() -> None:
    with torch.device("meta"):
        model, x = nn.Linear(8, 8), torch.zeros(2, 8)
    plan = autockpt.plan(
        model, "100%", sample_args=(x,), loss_fn=torch.sum, method="none", device="h100"
    )
    assert plan.graph is not None
    assert checkpointed_layers(plan.graph) is None
