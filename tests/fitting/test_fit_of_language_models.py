"""`fit` of small models of transformers: batches of one, logits, other cards, own losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import autockpt
from autockpt.devices.device import Device
from autockpt.devices.table import DEVICES
from autockpt.fitting.larger import on_larger_device
from autockpt.fitting.logits import logits_of
from autockpt.fitting.recording import Recording
from autockpt.fitting.step import SizedStep
from autockpt.hub.build import build_from_config
from autockpt.hub.options import HubOptions
from autockpt.ladder.graphs import GraphPlanner
from tests.hub.test_build import LLAMA

_DEEP = {**LLAMA, "num_hidden_layers": 2}


def _fit(
    config: dict[str, Any], device: str = "h100", *, options: HubOptions, **how: Any
) -> autockpt.Fit:
    example = build_from_config(config, options)
    inputs = dict(example.kwargs)
    if how.pop("has_batches", False):
        how["make_inputs"] = lambda batch: {name: _of(t, batch) for name, t in inputs.items()}
    return autockpt.fit(example.model, device, sample_kwargs=inputs, **how)


def _of(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    return tensor.new_zeros(batch, *tensor.shape[1:])


def _recorded(config: dict[str, Any], device: str, options: HubOptions) -> tuple[Any, SizedStep]:
    example = build_from_config(config, options)
    recording = Recording(
        device=DEVICES[device], budget_bytes=10**15, optimizer=None, progress=False
    )
    variant = autockpt.Variant(model=example.model, kwargs=example.kwargs)
    planner = recording.planner(variant)
    return planner, recording.sized(variant, planner)


def test_a_batch_of_one_has_another_graph_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layers, checkpointed, were replayed on the graph of a batch of two, and that failed."""
    monkeypatch.setattr("autockpt.fitting.step._QUICK_S", 0.1)
    monkeypatch.setattr("autockpt.fitting.batches._SEARCH_S", 0.1)
    options = HubOptions(batch=1, seq=16, dtype="bf16")
    answer = _fit(_DEEP, options=options, budget="70MB", has_batches=True)
    assert answer.batch == 1
    largest = [way.largest_batch for way in answer.ways]
    assert all(size is not None and size >= 1 for size in largest)
    assert "1 sequence of 16 tokens" in str(answer)


def test_gradients_of_weights_are_no_logits() -> None:
    """With 33 classes, everything of their size and above counted: 14 GiB of activations."""
    few = {**LLAMA, "vocab_size": 32, "hidden_size": 32}
    planner, step = _recorded(few, "l4", HubOptions(batch=2, seq=64))
    logits = logits_of(planner)
    assert logits
    # 32 hidden values are as many as there are classes: shapes alone do not tell them apart.
    size_bytes = 2 * 64 * 32 * 4
    sizes = [step.problem.graph.storages[at].size_bytes for at in logits]
    assert len(sizes) <= 8
    assert all(63 / 64 * size_bytes <= size <= size_bytes for size in sizes)
    answer = _fit(few, "l4", options=HubOptions(batch=2, seq=64))
    assert not any("chunks" in change.what for change in answer.changes)


def test_logits_that_are_the_peak_are_computed_in_chunks() -> None:
    many = {**LLAMA, "vocab_size": 20_000}
    options = HubOptions(batch=16, seq=128, dtype="bf16")
    planner, step = _recorded(many, "h100", options)
    answer = _fit(many, options=options)
    chunked = next(change for change in answer.changes if change.what == "a loss in 8 chunks")
    graph = step.problem.graph
    logits_bytes = sum(graph.storages[at].size_bytes for at in logits_of(planner))
    assert answer.ways[0].peak_bytes > chunked.peak_bytes
    # No more is saved than seven eighths of all logits, and no less than of two copies of them.
    saved_bytes = answer.ways[0].peak_bytes - chunked.peak_bytes
    assert 2 * 7 / 8 * 16 * 128 * 20_000 * 4 <= saved_bytes <= logits_bytes


def test_a_larger_card_needs_what_its_own_kernels_need() -> None:
    """A T4 runs attention of bfloat16 in matrix products, and an L4 does not."""
    options = HubOptions(batch=1400, seq=512, dtype="bf16")
    wide = {**LLAMA, "num_attention_heads": 4, "max_position_embeddings": 512}
    answer = _fit(wide, "t4", options=options)
    assert not answer.ways[0].fits
    suggested = next(change for change in answer.changes if change.what.startswith("a NVIDIA"))
    _, there = _recorded(wide, "l4", options)
    assert suggested.what == "a NVIDIA L4"
    assert suggested.peak_bytes == there.peak_bytes < answer.ways[0].peak_bytes // 2
    assert suggested.step_ns == there.step_ns()


def test_frozen_parameters_take_no_time_of_the_optimizer() -> None:
    _, plain = _recorded(LLAMA, "h100", HubOptions(batch=1, seq=8))
    _, adapted = _recorded(LLAMA, "h100", HubOptions(batch=1, seq=8, lora=2))
    assert adapted.trained_bytes < plain.trained_bytes / 4
    share = DEVICES["h100"].efficiency.elementwise * DEVICES["h100"].bytes_per_s
    # Parameters and two numbers of AdamW's are read and written, gradients read.
    moved = adapted.trained_bytes * 2 + adapted.problem.fixed.optimizer_bytes * 2
    moved += adapted.problem.gradients_bytes
    assert adapted.optimizer_ns == pytest.approx(moved / share * 1e9, abs=1)
    assert adapted.optimizer_ns < plain.optimizer_ns / 2


def test_a_loss_that_the_model_computes_is_not_outside_of_it() -> None:
    answer = _fit(LLAMA, options=HubOptions(batch=64, seq=64))
    assert not any("outside" in kind for kind, _ in answer.parts)
    example = build_from_config(LLAMA, HubOptions(batch=2, seq=8))
    plan = autockpt.plan(
        example.model, "100%", sample_kwargs=dict(example.kwargs), method="none", device="h100"
    )
    assert plan.graph is not None
    names = {plan.graph.ops[op].name for op in plan.places.outside}
    assert not any("softmax" in name or "nll" in name for name in names), names


def test_in_single_precision_all_cards_run_the_same_attention() -> None:
    """Recording the step for each of them took longer than all the rest."""
    planner, step = _recorded(LLAMA, "l4", HubOptions(batch=250_000, seq=64))
    recorded: list[str] = []

    def recorded_for(device: Device) -> GraphPlanner:
        recorded.append(device.name)
        return planner.on(device)

    def sized(known: GraphPlanner) -> SizedStep:
        return SizedStep.of(
            known,
            num_trained=step.num_trained,
            trained_bytes=step.trained_bytes,
            num_tokens=step.num_tokens,
        )

    larger = on_larger_device(planner, sized, recorded_for)
    assert larger is not None
    assert larger.device.usable_bytes >= larger.peak_bytes > DEVICES["l4"].usable_bytes
    assert recorded == []
    assert larger.step_ns() < step.step_ns()
