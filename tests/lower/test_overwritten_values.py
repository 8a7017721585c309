"""Readers of what a graph overwrites keep their place before or after it, in every plan."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autockpt


class Moving(nn.Module):
    """Reads a buffer, overwrites it, and reads it again."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(x)
        before = self.mean * 2
        self.mean.mul_(0.9).add_(x.detach().mean(0))
        return ((x - before) * self.mean).square().mean()


class Normed(nn.Module):
    """Its statistics are repeated for each instance, overwritten by the norm, and averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.norm = nn.InstanceNorm1d(4, track_running_stats=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x)).square().mean()


def test_running_statistics_are_read_after_the_norm_has_updated_them() -> None:
    """The schema of `native_batch_norm` does not tell that it writes into them, and plans that move
    operations read them before: InstanceNorm's buffers stayed as they were."""
    graph = autockpt.plan(Normed(), "90%", sample_args=(torch.randn(3, 4, 8),)).graph
    forward = [op for op in graph.ops if not op.is_backward]
    (norm,) = (op for op in forward if "batch_norm" in op.name)
    statistics = {s for op in forward if op.name.startswith("repeat") for s in op.writes}
    readers = [op for op in forward if op is not norm and statistics & {*op.reads}]
    averages = [op for op in readers if op.name.startswith("mean")]
    assert len(averages) == 2
    for op in averages:
        assert {*op.reads} & {*norm.writes}


@pytest.mark.parametrize("method", ["auto", "local", "greedy"])
def test_a_buffer_is_read_before_and_after_it_moves(method: str) -> None:
    torch.manual_seed(0)
    model, x = Moving(), torch.randn(64, 8)
    eager = Moving()
    eager.load_state_dict(model.state_dict())
    autockpt.optimize(model, "90%", optimizer="sgd", method=method, verify=False)
    for _ in range(3):
        losses = [module(x) for module in (eager, model)]
        for loss in losses:
            loss.backward()
        assert torch.equal(*losses)
        assert torch.equal(eager.mean, model.mean)
        assert torch.equal(eager.linear.weight.grad, model.linear.weight.grad)
