"""Budgets that depend on a device's memory; what the device says is injected."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import autockpt
from autockpt.devices.device import Device
from autockpt.devices.lookup import find_device
from autockpt.verify import device_memory

_MIB = 2**20
_MEMORY = device_memory.DeviceMemory(
    total_bytes=16384 * _MIB, free_bytes=10000 * _MIB, cached_bytes=1000 * _MIB
)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU pass for an accelerator with `_MEMORY`."""
    monkeypatch.setattr(device_memory, "is_any_here", lambda: True)
    monkeypatch.setattr(device_memory, "has_own_memory", lambda _: True)
    monkeypatch.setattr(device_memory, "device_memory", lambda _: _MEMORY)


@pytest.mark.usefixtures("on_device")
def test_auto_is_what_is_free_and_cached_and_what_the_step_holds_less_a_margin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The budget counts the whole step, so the 3 GiB that it holds already must not be lost."""
    monkeypatch.setattr("autockpt.dispatch.device_budget.distinct_bytes", lambda _: 3072 * _MIB)
    plan = autockpt.plan(_model(), "auto", sample_args=(torch.randn(8, 64),), method="greedy")
    margin_bytes = int(0.05 * _MEMORY.total_bytes)
    exact_bytes = (10000 + 1000 + 3072) * _MIB - margin_bytes
    assert plan.budget_bytes == exact_bytes - exact_bytes % (64 * _MIB)


@pytest.mark.usefixtures("on_device")
def test_the_device_is_read_once_when_the_first_call_is_planned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Later, activations of a step in progress would shrink the budget of other sizes."""
    model = autockpt.optimize(_model(), "50% of free", method="greedy", verify=False, watch=False)
    held: list[int] = []
    read = autockpt.dispatch.device_budget.distinct_bytes

    def count(tensors: list[torch.Tensor]) -> int:
        held.append(read(tensors))
        return held[-1]

    monkeypatch.setattr("autockpt.dispatch.device_budget.distinct_bytes", count)
    for size in (8, 3):
        model(torch.randn(size, 64)).sum().backward()
        plan = autockpt.get_plan(model)
        assert plan is not None
        assert plan.budget_bytes == 5500 * _MIB // (64 * _MIB) * 64 * _MIB
    own_bytes = sum(p.nbytes for p in model.parameters())
    assert held == [own_bytes + 8 * 64 * 4]


@pytest.mark.parametrize("budget", ["auto", "80% of device", "80% OF FREE"])
def test_a_step_on_the_cpu_needs_a_number(budget: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r'budget ".*" depends.*give a number, such as "8GB"'):
        autockpt.optimize(_model(), budget)
    # A model that is still on the CPU may move to a device before it trains.
    monkeypatch.setattr(device_memory, "is_any_here", lambda: True)
    model = autockpt.optimize(_model(), budget)
    with pytest.raises(ValueError, match="give a number"):
        model(torch.randn(2, 64))
    model(torch.randn(2, 64))  # it runs as it is from then on


def test_devices_that_are_not_here_give_their_memory() -> None:
    card = find_device("t4")

    def planned(budget: str, device: Device = card) -> int:
        inputs = (torch.randn(8, 64),)
        made = autockpt.plan(_model(), budget, sample_args=inputs, device=device, method="greedy")
        return made.budget_bytes

    def rounded(num_bytes: float) -> int:
        return int(num_bytes) // (64 * _MIB) * 64 * _MIB

    usable_bytes = card.memory_bytes - card.context_bytes
    assert planned("auto") == rounded(usable_bytes - int(0.05 * card.memory_bytes))
    assert planned("80% of device") == rounded(0.8 * card.memory_bytes)
    assert planned("80% of free") == rounded(0.8 * usable_bytes)
    host = dataclasses.replace(card, is_accelerator=False)
    with pytest.raises(ValueError, match="give a number"):
        planned("auto", host)


def test_state_that_an_optimizer_has_on_a_device_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on from a checkpoint has its optimizer's state on the device before."""
    from autockpt import arguments

    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 64)).sum().backward()
    optimizer.step()
    assert arguments._held_bytes(optimizer) == 0  # the host's memory is not the device's
    monkeypatch.setattr(device_memory, "has_own_memory", lambda _: True)
    assert arguments._held_bytes(optimizer) == sum(p.nbytes for p in model.parameters())
