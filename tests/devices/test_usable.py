"""Budgets that depend on a device mean the same wherever a device is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import autockpt
from autockpt.devices.table import DEVICES
from autockpt.devices.usable import budget_of

_H100 = DEVICES["h100"]
_HOW: dict[str, Any] = {
    "loss_fn": lambda output: output.square().mean(),
    "optimizer": "sgd",
    "progress": False,
}


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).to("meta")


def _inputs(batch: int) -> torch.Tensor:
    return torch.zeros(batch, 64, device="meta")


@pytest.mark.parametrize("budget", ["auto", "80% of device", "80% of free"])
def test_all_calls_find_the_same_budget(budget: str) -> None:
    """Only `plan` took them; the others asked for a number."""
    planned = autockpt.plan(_model(), budget, sample_args=(_inputs(8),), device="h100", **_HOW)
    wanted = planned.budget_bytes
    assert budget_of(budget, _H100) == wanted
    curve = autockpt.pareto(
        _model(), [budget, "50%"], sample_args=(_inputs(8),), device="h100", **_HOW
    )
    assert curve.points[-1].budget_bytes == wanted
    largest = autockpt.max_batch_size(_inputs, _model(), budget, device="h100", at_most=4, **_HOW)
    assert largest.plan.budget_bytes == wanted


def test_without_a_device_they_ask_for_a_number() -> None:
    model, x = nn.Linear(64, 64), torch.zeros(2, 64)
    with pytest.raises(ValueError, match="this step runs on none that has its own"):
        autockpt.pareto(model, ["auto"], sample_args=(x,), **_HOW)
    with pytest.raises(ValueError, match="this step runs on none that has its own"):
        autockpt.max_batch_size(lambda batch: torch.zeros(batch, 64), model, "auto", **_HOW)


def test_no_budget_is_more_than_the_device_has() -> None:
    assert budget_of(None, _H100) == _H100.usable_bytes
    with pytest.raises(ValueError, match=r"more than the 78\.61 GiB that a step can have on h100"):
        budget_of("100% of device", _H100)
