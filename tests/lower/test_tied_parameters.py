"""Parameters with several gradients, which autograd adds up."""

from __future__ import annotations

import torch
from torch import nn

import autockpt


class Tied(nn.Module):
    """An embedding that is the head as well, and nothing else that takes memory."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(2000, 32), nn.Linear(32, 32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.linear(self.embedding(tokens)).relu()
        return (hidden @ self.embedding.weight.t()).logsumexp(-1).mean()


def test_the_sum_of_a_tied_embeddings_gradients_is_predicted() -> None:
    """Autograd adds the two up in a third block. Plans left it out: a step that was predicted at
    3.0 MiB took 3.9."""
    tokens = torch.randint(0, 2000, (16,))
    plan = autockpt.plan(Tied(), "100%", sample_args=(tokens,), optimizer="sgd")
    model = Tied()
    autockpt.optimize(model, plan.baseline_peak_bytes, optimizer="sgd")
    model(tokens).backward()
    eager = autockpt.get_plan(model)
    assert eager is not None
    assert eager.measured_peak_bytes == plan.baseline_peak_bytes == plan.predicted_peak_bytes
    assert plan.peak_parts
    assert plan.minimum_peak_bytes > 4 * 2000 * 32 * 4
