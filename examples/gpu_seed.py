"""BERT-large at a budget that needs a plan, and a batch twice as large; part of `gpu_check.py`.

24 layers, 1024 wide, batch 8, sequence 512, single precision, attention written out: eager PyTorch,
every layer checkpointed, and autockpt at 6.5 GB; then twice the batch. Without a GPU the same is
done with a small BERT.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import autockpt
from autockpt.devices.device import Device
from autockpt.devices.lookup import device_like, find_device
from autockpt.verify.peak import measure_peak_bytes

_DEVICE_IF_NONE = "h100"  # what to estimate for if the device at hand is not known


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A BERT and its batch."""

    layers: int
    width: int
    heads: int
    length: int
    vocabulary: int
    batch: int
    # Of the eager peak, if that is not the published case.
    budget: int | str


_SHAPES = {
    "full": Shape(
        layers=24,
        width=1024,
        heads=16,
        length=512,
        vocabulary=30522,
        batch=8,
        budget=6_500_000_000,
    ),
    "small": Shape(layers=2, width=64, heads=4, length=64, vocabulary=256, batch=8, budget="60%"),
}


def check_seed(options: argparse.Namespace, out_of_time: Callable[[], bool]) -> dict[str, Any]:
    """Measures each way to train it; returns what was measured, by the name of the way."""
    shape = _SHAPES[options.size]
    ways: dict[str, Any] = {}
    eager = _Run(shape, options)
    ways["eager"] = eager.measured()
    del eager
    budget_bytes = shape.budget
    if isinstance(budget_bytes, str):
        budget_bytes = int(float(budget_bytes.rstrip("%")) / 100 * ways["eager"]["peak_bytes"])
    per_layer = _Run(shape, options)
    per_layer.model.gradient_checkpointing_enable({"use_reentrant": False})
    ways["every layer checkpointed"] = per_layer.measured()
    del per_layer
    for batch in (shape.batch, 2 * shape.batch):
        name = f"autockpt, batch {batch}"
        if out_of_time():
            ways[name] = {"skipped": "no time left"}
            continue
        ways[name] = _planned(shape, options, batch, budget_bytes)
    ways["estimated"] = (
        {"skipped": "no time left"}
        if out_of_time()
        else _estimated(shape, options, shape.batch, budget_bytes)
    )
    return {"shape": vars(shape), "budget_bytes": budget_bytes, "ways": ways}


def _planned(
    shape: Shape, options: argparse.Namespace, batch: int, budget_bytes: int
) -> dict[str, Any]:
    """Trains by a plan that is made and verified on the device."""
    run = _Run(shape, options, batch=batch)
    started = time.monotonic()
    try:
        run.optimize(budget_bytes)
    except autockpt.BudgetError as error:
        # A little more than the least that it needs, so that there is something to measure.
        budget_bytes = int(1.02 * error.minimum_peak_bytes)
        run.optimize(budget_bytes)
    planning_s = time.monotonic() - started
    plan = autockpt.get_plan(run.model)
    assert plan is not None
    planned = {"planning_s": planning_s, "budget_bytes": budget_bytes}
    return run.measured() | _of_plan(plan) | planned


def _estimated(
    shape: Shape, options: argparse.Namespace, batch: int, budget_bytes: int
) -> dict[str, Any]:
    """Plans the same without the device, from its data sheet."""
    run = _Run(shape, options, batch=batch, device="meta")
    target = estimated_device(options)
    try:
        plan = autockpt.plan(
            run.model,
            # A plan for the device at hand does not count what cuBLAS keeps.
            budget_bytes + target.workspace_bytes,
            sample_kwargs=run.inputs,
            loss_fn=_loss,
            optimizer="sgd",
            time_limit_s=options.time_limit,
            device=target,
        )
    except autockpt.BudgetError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return _of_plan(plan) | {"device": plan.device}


def estimated_device(options: argparse.Namespace) -> Device:
    """The device at hand, as its data sheet describes it."""
    known = None
    if options.device != "cpu":
        known = device_like(torch.cuda.get_device_properties(options.device).name)
    return known or find_device(_DEVICE_IF_NONE)


def _of_plan(plan: autockpt.Plan) -> dict[str, Any]:
    return {
        "predicted_peak_bytes": plan.predicted_peak_bytes - plan.fixed.workspace_bytes,
        "minimum_peak_bytes": plan.minimum_peak_bytes,
        "predicted_ms": (plan.baseline_step_ns + plan.recompute_ns) / 1e6,
        "predicted_overhead": plan.overhead,
        "lower_bound": plan.lower_bound,
        "cost_source": plan.cost_source,
    }


def _loss(output: Any) -> torch.Tensor:
    loss: torch.Tensor = output.last_hidden_state.float().square().mean()
    return loss


class _Run:
    """One way to train the model: forward, backward, and a step of plain SGD."""

    def __init__(
        self,
        shape: Shape,
        options: argparse.Namespace,
        *,
        batch: int | None = None,
        device: str | None = None,
    ) -> None:
        from transformers import BertConfig, BertModel

        fresh(options.device)
        self.device = torch.device(device or options.device)
        self.batch = batch or shape.batch
        self.options = options
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=4 * shape.width,
            max_position_embeddings=shape.length,
            attn_implementation="eager",
        )
        with self.device:
            self.model: Any = BertModel(config, add_pooling_layer=False)
            ids = torch.randint(shape.vocabulary, (self.batch, shape.length))
        self.model.train()
        self.inputs = {"input_ids": ids}
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)

    def optimize(self, budget_bytes: int) -> None:
        autockpt.optimize(
            self.model,
            budget_bytes,
            sample_kwargs=self.inputs,
            loss_fn=_loss,
            optimizer=self.optimizer,
            time_limit_s=self.options.time_limit,
        )

    def forward_and_backward(self) -> None:
        output = self.model(**self.inputs)
        _loss(output).backward()

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.forward_and_backward()
        self.optimizer.step()

    def measured(self) -> dict[str, Any]:
        """Trains some steps: their peak, what was reserved, and their time."""
        try:
            self.step()
            self.step()
        except torch.OutOfMemoryError:
            return {"error": "out of memory"}
        times_ms = [self._time_ms() for _ in range(self.options.pairs)]
        self.optimizer.zero_grad()
        fresh(str(self.device))
        resting_bytes = sum(p.nbytes for p in self.model.parameters())
        resting_bytes += sum(b.nbytes for b in self.model.buffers())
        resting_bytes += self.inputs["input_ids"].nbytes
        peak_bytes = resting_bytes + measure_peak_bytes(self.step, self.device)
        median_ms = statistics.median(times_ms)
        answer = {
            "peak_bytes": peak_bytes,
            "forward_backward_ms": median_ms,
            "sequences_per_s": 1000 * self.batch / median_ms,
        }
        if self.device.type == "cuda":
            answer["max_memory_reserved_bytes"] = torch.cuda.max_memory_reserved(self.device)
        return answer

    def _time_ms(self) -> float:
        """What a plan predicts the time of: forward and backward."""
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        started_ns = time.perf_counter_ns()
        self.forward_and_backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return (time.perf_counter_ns() - started_ns) / 1e6


def fresh(device: str) -> None:
    """Gives back what is no longer used, so that it does not count for what comes next."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
