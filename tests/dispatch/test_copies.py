"""Copies of an optimized model, and training that goes on in another process's place."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from tiny_models import build
from training import assert_same_gradients, assert_same_training

import autockpt
from autockpt.ladder.graphs import GraphPlanner
from autockpt.verify.bits import same_bits


@pytest.mark.row("deepcopy, pickle, torch.save", "module with a graph break")
def test_a_deep_copy_follows_the_plan_on_its_own_parameters(monkeypatch) -> None:
    tiny = build("control_flow")
    eager = copy.deepcopy(tiny.model)
    autockpt.optimize(
        tiny.model, "80%", method="greedy", sample_args=tiny.args, sample_kwargs=tiny.kwargs
    )
    monkeypatch.setattr(GraphPlanner, "plan", None)  # whoever plans again fails
    twin = copy.deepcopy(tiny.model)
    assert autockpt.get_plan(twin) == autockpt.get_plan(tiny.model)
    assert_same_training(eager, twin, tiny.args, tiny.kwargs)
    # The first model's parameters did not move.
    fresh = build("control_flow").model
    for ours, theirs in zip(tiny.model.parameters(), fresh.parameters(), strict=True):
        assert same_bits(ours, theirs)


@pytest.mark.row("deepcopy, pickle, torch.save", "module with a graph break")
def test_a_saved_module_comes_back_with_its_plan(monkeypatch) -> None:
    tiny = build("control_flow")
    eager = copy.deepcopy(tiny.model)
    autockpt.optimize(
        tiny.model, "80%", method="greedy", sample_args=tiny.args, sample_kwargs=tiny.kwargs
    )
    monkeypatch.setattr(GraphPlanner, "plan", None)
    file = io.BytesIO()
    torch.save(tiny.model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert autockpt.get_plan(loaded) == autockpt.get_plan(tiny.model)
    assert_same_training(eager, loaded, tiny.args, tiny.kwargs)


def test_a_module_whose_loss_cannot_be_pickled_is_saved_as_it_was() -> None:
    tiny = build("control_flow")
    autockpt.optimize(tiny.model, "80%", method="greedy", loss_fn=lambda output: output["loss"])
    file = io.BytesIO()
    torch.save(tiny.model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert autockpt.get_plan(loaded) is None
    assert torch.equal(
        loaded.eval()(*tiny.args, **tiny.kwargs)["loss"],
        tiny.model.eval()(*tiny.args, **tiny.kwargs)["loss"],
    )


@pytest.mark.row("resumed training", "module with a graph break, plan included")
def test_resumed_training_is_the_training_that_was_not_interrupted() -> None:
    tiny = build("control_flow")
    autockpt.optimize(
        tiny.model, "80%", method="greedy", sample_args=tiny.args, sample_kwargs=tiny.kwargs
    )

    def steps(model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            model(*tiny.args, **tiny.kwargs)["loss"].backward()
            optimizer.step()

    torch.manual_seed(5)
    optimizer = torch.optim.AdamW(tiny.model.parameters(), lr=1e-3)
    steps(tiny.model, optimizer, 2)
    file = io.BytesIO()
    torch.save((tiny.model, optimizer.state_dict(), torch.get_rng_state()), file)
    steps(tiny.model, optimizer, 2)
    file.seek(0)
    model, optimizer_state, rng_state = torch.load(file, weights_only=False)
    resumed = torch.optim.AdamW(model.parameters(), lr=1e-3)
    resumed.load_state_dict(optimizer_state)
    torch.set_rng_state(rng_state)
    steps(model, resumed, 2)
    assert_same_gradients(tiny.model, model)
