"""Inputs whose sizes change from call to call: few plans, none for a size that another serves."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from tiny_models import Tiny
from torch import nn
from training import assert_same_gradients, assert_same_program, peak_bytes, train_on

import autockpt
from autockpt.dispatch.buckets import Buckets
from autockpt.dispatch.layout import layout_of, resized, round_up
from autockpt.ladder.graphs import GraphPlanner
from autockpt.ladder.step import StepToPlan
from autockpt.verify.bits import same_bits


class Reader(nn.Module):
    """Next tokens from an attending layer and a wide one, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 32)
        self.attention = nn.Linear(32, 96)
        self.wide = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 128), nn.GELU())
        self.narrow = nn.Sequential(nn.Linear(128, 32), nn.Dropout(0.1), nn.Linear(32, 64))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.embedding(input_ids)
        q, k, v = self.attention(x).chunk(3, dim=-1)
        x = x + nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        logits = self.narrow(self.wide(x))
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())}


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Inputs of every capture from here on."""
    seen: list[Any] = []
    by_itself = GraphPlanner.capture

    def counted(step: StepToPlan, **options: Any) -> GraphPlanner:
        seen.append((step.args, step.kwargs))
        return by_itself(step, **options)

    monkeypatch.setattr(GraphPlanner, "capture", counted)
    return seen


def text_batches(lengths: Iterable[int], batch: int = 4) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    batches = []
    for length in lengths:
        ids = torch.randint(1, 64, (batch, length), generator=generator)
        batches.append({"input_ids": ids, "labels": ids.clone()})
    return batches


@pytest.mark.row("sizes that change from call to call", "an attending reader of text, an MLP")
def test_a_hundred_lengths_take_a_handful_of_captures(captures: list[Any]) -> None:
    """Every new length was captured, profiled and solved anew: a training on text of natural
    lengths did little else."""
    tiny = Tiny(model=Reader())
    eager = copy.deepcopy(tiny.model)
    draw = random.Random(5)
    lengths = [draw.randint(2, 32) for _ in range(100)]
    longest = text_batches([32])[0]
    plan = autockpt.plan(tiny.model, "85%", sample_kwargs=longest, method="greedy")
    budget = plan.budget_bytes
    captures.clear()
    autockpt.optimize(tiny.model, budget, method="greedy")
    batches = text_batches(lengths)
    steps = [((), batch) for batch in batches]
    assert_same_program(eager, tiny.model, lambda model: train_on(model, steps))
    assert len(captures) <= 5
    largest = max(batches, key=lambda batch: batch["input_ids"].shape[1])
    plan = autockpt.get_plan(tiny.model)
    assert plan is not None
    assert peak_bytes(tiny.model, (), largest) <= budget


@pytest.mark.row("sizes that change from call to call", "an attending reader of text, an MLP")
def test_the_last_small_batch_is_served_without_a_plan_for_each_size(captures: list[Any]) -> None:
    tiny = Tiny(model=Reader())
    eager = copy.deepcopy(tiny.model)
    autockpt.optimize(tiny.model, "80%", sample_kwargs=text_batches([32])[0], method="greedy")
    batches = [text_batches([32], batch=batch)[0] for batch in (4, 3, 2, 4, 3)]
    steps = [((), batch) for batch in batches]
    assert_same_program(eager, tiny.model, lambda model: train_on(model, steps))
    assert len(captures) <= 3


@pytest.mark.row("sizes that change from call to call", "an attending reader of text, an MLP")
@pytest.mark.full
def test_lengths_may_vary_while_gradients_accumulate(captures: list[Any]) -> None:
    tiny = Tiny(model=Reader())
    eager = copy.deepcopy(tiny.model)
    longest = text_batches([32])[0]
    plan = autockpt.plan(tiny.model, "90%", sample_kwargs=longest, method="greedy")
    budget = plan.budget_bytes
    autockpt.optimize(tiny.model, budget, method="greedy")
    batches = text_batches([32, 30, 27, 31, 29, 32])
    for model in (eager, tiny.model):
        torch.manual_seed(3)
        for batch in batches:
            model(**batch)["loss"].backward()
    assert_same_gradients(eager, tiny.model)
    assert len(captures) <= 6


def test_plans_for_open_sizes_go_with_copies(captures: list[Any]) -> None:
    tiny = Tiny(model=Reader())
    autockpt.optimize(tiny.model, "85%", sample_kwargs=text_batches([32])[0], method="greedy")
    tiny.model(**text_batches([30])[0])["loss"].backward()
    tiny.model.zero_grad()
    captures.clear()
    for twin in (copy.deepcopy(tiny.model), pickle.loads(pickle.dumps(tiny.model))):
        losses = []
        for model in (tiny.model, twin):
            torch.manual_seed(1)
            losses.append(model(**text_batches([31])[0])["loss"].detach())
        assert same_bits(*losses)
    assert captures == []


@pytest.mark.row("sizes that change from call to call", "an attending reader of text, an MLP")
def test_sizes_that_the_code_decides_on_are_planned_exactly() -> None:
    """A forward that reads a size in Python cannot be traced with that size left open."""

    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*[nn.Sequential(nn.Linear(32, 32), nn.GELU())] * 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(x.shape[0] // 8):
                x = self.layers(x)
            return x.sum()

    torch.manual_seed(0)
    eager = Decides()
    ours = autockpt.optimize(copy.deepcopy(eager), "80%", method="greedy")
    for size in (64, 56, 40, 64, 48):
        x = torch.randn(size, 32)
        for model in (eager, ours):
            model.zero_grad()
            model(x).backward()
        assert_same_gradients(eager, ours)


def test_buckets_are_a_factor_of_less_than_one_and_a_half_apart() -> None:
    tops = [round_up(size) for size in range(1, 2000)]
    assert all(top >= size for size, top in enumerate(tops, start=1))
    assert all(top <= 1.5 * size for size, top in enumerate(tops, start=1))
    assert len(set(tops)) == 22


def test_inputs_are_made_larger_in_their_own_format() -> None:
    x = torch.randn(2, 3, 8, 8, requires_grad=True).to(memory_format=torch.channels_last)
    layout = layout_of((x,), {"mask": None})
    (larger,), kwargs = resized((x,), {"mask": None}, layout, ((3, 3, 8, 8),))
    assert larger.shape == (3, 3, 8, 8)
    assert larger.is_contiguous(memory_format=torch.channels_last)
    assert larger.requires_grad
    assert kwargs == {"mask": None}
    assert layout_of((larger,), kwargs).family == layout.family


def test_other_dtypes_values_and_unit_sizes_are_other_families() -> None:
    x = torch.zeros(4, 8)
    base = layout_of((x, 3), {}).family
    assert layout_of((torch.zeros(5, 9), 3), {}).family == base
    assert layout_of((x.double(), 3), {}).family != base
    assert layout_of((x, 4), {}).family != base
    assert layout_of((torch.zeros(1, 8), 3), {}).family != base
    assert layout_of((torch.zeros(8, 16)[:, ::2], 3), {}).family is None


def test_a_plan_serves_what_is_smaller_in_its_bucket_alone() -> None:
    buckets = Buckets()
    first, second = layout_of((torch.zeros(4, 40),), {}), layout_of((torch.zeros(4, 33),), {})
    assert buckets.candidates(first, rounds_up=True, budget_bytes=None) == []
    wide, seen, narrow = buckets.candidates(second, rounds_up=True, budget_bytes=None)
    assert [b.sizes for b in (wide, seen, narrow)] == [((4, 48),), ((4, 40),), ((4, 33),)]
    buckets.add(second, "narrow", narrow)
    assert buckets.serving(layout_of((torch.zeros(4, 34),), {})) is None
    buckets.add(second, "wide", wide)
    assert buckets.serving(layout_of((torch.zeros(4, 48),), {})) == "wide"
    assert buckets.serving(layout_of((torch.zeros(4, 32),), {})) is None
    assert buckets.serving(layout_of((torch.zeros(3, 40),), {})) is None
    buckets.add_untouched(second, "as it is", ((4, 20),))
    assert buckets.serving(layout_of((torch.zeros(3, 20),), {})) == "as it is"
    assert buckets.forget("wide")
    assert not buckets.forget("wide")
    assert buckets.serving(layout_of((torch.zeros(4, 48),), {})) is None


@pytest.mark.row("sizes that change from call to call", "an attending reader of text, an MLP")
def test_inputs_that_two_models_take_carry_no_marks_from_one_to_the_other() -> None:
    """Dimensions that a plan of the first left open were symbols in a graph of fixed sizes."""
    batches = [torch.randn(rows, 32) for rows in (512, 768, 600)]
    batches[0].mine = "kept"  # type: ignore[attr-defined]
    torch._dynamo.mark_dynamic(batches[2], 1)
    models = [
        nn.Sequential(*[nn.Sequential(nn.Linear(32, 96), nn.GELU(), nn.Linear(96, 32))] * 3)
        for _ in range(2)
    ]
    for model in models:
        autockpt.optimize(model, "80%", method="greedy", optimizer="sgd", verify=False)
        for batch in batches if model is models[0] else reversed(batches):
            model(batch).square().mean().backward()
            model.zero_grad()
        assert autockpt.get_plan(model).rung == "whole"
    assert [vars(batch) for batch in batches[:2]] == [{"mine": "kept"}, {}]
    assert batches[2]._dynamo_dynamic_indices == {1}  # type: ignore[attr-defined]
