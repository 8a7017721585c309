"""Graphs that return views of their inputs."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

import autockpt


class Split(nn.Module):
    """Flattens its input before a graph break, and reads it after it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1)
        hidden = self.first(x)
        for _ in range(4):
            hidden = functional.gelu(hidden * hidden.sin())
        hidden = hidden.mean(0)
        torch._dynamo.graph_break()
        return (self.second(hidden).square().mean() * flat).mean()


def test_the_gradient_of_an_input_stays_if_an_earlier_graph_returned_a_view_of_it() -> None:
    """It was taken for a gradient that autograd passes on, and frees."""
    model = Split()
    x = torch.randn(512, 64, requires_grad=True)
    autockpt.optimize(model, "95%", optimizer="sgd", method="greedy")
    model(x).backward()
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert (plan.rung, plan.num_graphs) == ("whole", 2)
    assert plan.measured_peak_bytes == plan.predicted_peak_bytes
