"""What runs between calls of modules: measured once, so that the numbers of the rung add up."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import autockpt
from autockpt.verify.peak import measure_peak_bytes


class Opaque(nn.Module):
    """Blocks that cannot be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32)) for _ in range(4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
            if float(x.detach().sum()) > 1e9:
                x = 2 * x
        return x


def large_loss(y: torch.Tensor) -> torch.Tensor:
    """Buffers of its own, each as large as all that the model saves."""
    return torch.cat([y] * 64, 1).exp().mean() + y.square().mean()


def _optimized(budget: int | str) -> autockpt.Plan:
    torch.manual_seed(0)
    model, x = Opaque(), torch.randn(256, 32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Opaque falls back")
        autockpt.optimize(
            model, budget, sample_args=(x,), loss_fn=large_loss, optimizer="sgd", method="greedy"
        )
    plan = autockpt.get_plan(model)
    assert plan is not None
    return plan


@pytest.mark.row("numbers of the lowest rungs add up", "shares, parts and minimums of a large loss")
def test_the_numbers_of_a_loss_with_a_large_buffer_add_up() -> None:
    """The loss runs outside of all calls and was not counted: "98%" was a tenth of eager's peak,
    parts summed to a third of the whole, and the minimum that an error named was refused."""
    torch.manual_seed(0)
    eager, x = Opaque(), torch.randn(256, 32)
    fixed_bytes = x.nbytes + sum(p.nbytes for p in eager.parameters())
    outputs = []

    def step() -> None:
        outputs.append(eager(x))
        large_loss(outputs[0]).backward()

    eager_bytes = fixed_bytes + measure_peak_bytes(step)
    plan = _optimized("98%")
    assert plan.rung == "checkpoint"
    assert plan.budget_bytes == pytest.approx(0.98 * eager_bytes, rel=0.001)
    assert plan.measured_peak_bytes is not None
    assert plan.predicted_peak_bytes == pytest.approx(plan.measured_peak_bytes, rel=0.01)
    with pytest.raises(autockpt.BudgetError, match="MiB workspace") as caught:
        _optimized("30%")
    error = caught.value
    assert sum(error.composition.values()) == error.minimum_peak_bytes
    least = _optimized(error.minimum_peak_bytes)
    assert least.measured_peak_bytes is not None
    assert least.measured_peak_bytes <= error.minimum_peak_bytes
