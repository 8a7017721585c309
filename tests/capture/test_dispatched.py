"""A step that is recorded as it is dispatched is the step that tracing gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autockpt
from autockpt import zoo
from autockpt.devices.table import GENERIC_CPU
from autockpt_solvers import baseline_schedule, simulate

_GRADIENT_OF_THE_LOSS_BYTES = 4  # a traced graph gets it from outside


@pytest.mark.parametrize("name", ["resnet50", "sequential"])
def test_recorded_and_traced_steps_need_the_same(name: str) -> None:
    """Convolutions, BatchNorm, operators in place, a loss outside of the model."""
    plans = []
    for device in (None, GENERIC_CPU):
        example = zoo.build(name, "small", device="meta")
        plan = autockpt.plan(
            example.model,
            "70%",
            sample_args=example.args,
            sample_kwargs=dict(example.kwargs),
            loss_fn=example.loss_fn,
            method="greedy",
            device=device,
        )
        assert plan.graph is not None
        plans.append((plan, simulate(plan.graph, baseline_schedule(plan.graph)).peak_bytes))
    (traced, traced_bytes), (recorded, recorded_bytes) = plans
    assert recorded.baseline_peak_bytes == traced.baseline_peak_bytes
    assert abs(recorded_bytes - traced_bytes) <= _GRADIENT_OF_THE_LOSS_BYTES
    difference_bytes = recorded.predicted_peak_bytes - traced.predicted_peak_bytes
    assert abs(difference_bytes) <= _GRADIENT_OF_THE_LOSS_BYTES
    assert recorded.overhead == pytest.approx(traced.overhead, abs=1e-3)
    assert [row.module for row in recorded.rows if row.saved_bytes] == [
        row.module for row in traced.rows if row.saved_bytes
    ]


class _Odd(nn.Module):
    """Operators in place on views, a constant of its own, and Python that no compiler takes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(32, 32)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.seen: list[str] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        y = self.inner(x)
        y[:, :4].mul_(2.0)
        z = torch.empty_like(y).copy_(y).relu_()
        self.seen.append(type(z).__name__)
        return (z * torch.tensor(3.0)).sum()


def test_what_is_written_in_place_is_a_new_storage_from_then_on() -> None:
    with torch.device("meta"):
        model, x = _Odd(), torch.randn(16, 32)
    plan = autockpt.plan(model, "100%", sample_args=(x,), optimizer="sgd", device=GENERIC_CPU)
    assert plan.graph is not None
    by_name = {op.name: op for op in plan.graph.ops}
    assert model.seen == []
    assert by_name["relu"].recomputable
    assert by_name["mul"].recomputable
    assert not by_name["add_"].recomputable  # the buffer's count
    assert "empty_like" not in by_name
    (relu,) = by_name["relu"].reads
    assert relu in by_name["copy"].writes
    assert by_name["threshold_backward"].is_backward
    assert by_name["threshold_backward"].segment == by_name["relu"].segment
    assert by_name["mm"].segment == "inner" == by_name["addmm"].segment


def test_accumulated_gradients_are_those_of_an_earlier_backward() -> None:
    with torch.device("meta"):
        model, x = nn.Linear(64, 64), torch.randn(4, 64)
    fresh = autockpt.plan(model, "100%", sample_args=(x,), device="h100")
    assert fresh.baseline_peak_bytes >= fresh.fixed.total_bytes + fresh.gradients_bytes
