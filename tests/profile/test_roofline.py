"""Estimated costs follow the table of devices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autockpt
from autockpt.profile import roofline
from autockpt.profile.roofline import DEVICE_SPEEDS, DeviceSpeed, device_speed


def test_each_device_type_has_the_rates_of_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that was added to the table was never read: there were two fixed ones."""
    slow = DeviceSpeed(flops_per_s=1e9, half_flops_per_s=1e9, bytes_per_s=1e9, launch_ns=7)
    monkeypatch.setitem(DEVICE_SPEEDS, "xpu", slow)
    assert device_speed(torch.device("xpu")) is slow
    assert device_speed(torch.device("meta")) is DEVICE_SPEEDS["cpu"]
    assert device_speed(torch.device("cuda", 1)) is DEVICE_SPEEDS["cuda"]
    assert device_speed(torch.device("mtia")) is DEVICE_SPEEDS["cuda"]


def test_a_slower_device_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    def step_ns() -> int:
        with torch.device("meta"):
            model, x = nn.Sequential(nn.Linear(64, 64), nn.GELU()), torch.randn(8, 64)
        plan = autockpt.plan(model, "100%", sample_args=(x,), method="none")
        assert plan.cost_source == "roofline"
        return plan.baseline_step_ns

    usual_ns = step_ns()
    slow = DeviceSpeed(flops_per_s=5e7, half_flops_per_s=5e7, bytes_per_s=1e7, launch_ns=2_000)
    monkeypatch.setitem(roofline.DEVICE_SPEEDS, "cpu", slow)
    assert step_ns() > 2 * usual_ns
