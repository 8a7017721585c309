"""The ledger: what a peak is made of, in lines that add up to it exactly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import autockpt
from autockpt.report.timeline.breakdown import peak_parts
from autockpt_solvers import ComputeGraph, Problem, baseline_schedule, simulate, solve
from tests.solvers.graphs import graphs


@given(graphs(), st.floats(0.3, 1.0))
def test_parts_add_up_to_the_peak_of_any_schedule(graph: ComputeGraph, share: float) -> None:
    none = baseline_schedule(graph)
    budget_bytes = max(1, int(share * simulate(graph, none).peak_bytes))
    result = solve(Problem(graph=graph, budget_bytes=budget_bytes), method="greedy")
    outside = frozenset(range(0, len(graph.ops), 3))
    for schedule in filter(None, (none, result.schedule)):
        timeline = simulate(graph, schedule)
        for which in (frozenset[int](), outside):
            parts = peak_parts(graph, schedule, timeline, which)
            assert sum(parts.values()) == timeline.peak_bytes
            assert all(parts.values())
    recomputes = result.schedule is not None and result.recompute_ns
    if not recomputes:
        parts = peak_parts(graph, none, simulate(graph, none), frozenset())
        assert "recomputed activations" not in parts


class Tagger(nn.Module):
    """Its logits are its largest values, and the loss on them is yours."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.GELU()) for _ in range(4)))
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 512)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.norm(self.body(values)))
        return logits


def _loss(logits: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def test_the_lines_of_a_step_add_up_to_its_predicted_peak() -> None:
    torch.manual_seed(0)
    model, batch = Tagger(), torch.randn(256, 16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def planned(budget: str, optimizer: torch.optim.Optimizer = optimizer) -> autockpt.Plan:
        return autockpt.plan(
            model,
            budget,
            sample_args=(batch,),
            loss_fn=_loss,
            optimizer=optimizer,
            method="greedy",
        )

    plan = planned("99%")
    parameter_bytes = sum(p.nbytes for p in model.parameters())
    ledger = plan.ledger
    assert sum(ledger.values()) == plan.predicted_peak_bytes
    assert ledger["parameters"] == ledger["optimizer state"] == parameter_bytes
    assert ledger["buffers"] == 2 * 16 * 4 + 8
    assert ledger["inputs"] == batch.nbytes
    logits_bytes = 256 * 512 * 4
    # At the peak the loss has its gradient and what it saved.
    assert ledger["loss outside of the model"] >= logits_bytes
    assert ledger["outputs"] == logits_bytes
    assert ledger["in eager PyTorch alone"] == 0
    text = str(plan)
    for kind in ("loss outside of the model", "outputs", "saved activations", "predicted peak"):
        assert f"\n  {kind}  " in text
    assert autockpt.Plan.from_json(plan.to_json()).ledger == ledger

    untouched = planned("200%")
    assert untouched.leaves_the_model
    assert sum(untouched.ledger.values()) == untouched.predicted_peak_bytes

    heavy = torch.optim.Adam(model.parameters(), foreach=True)
    with pytest.raises(autockpt.BudgetError) as caught:
        planned("10%", heavy)
    error = caught.value
    assert sum(error.composition.values()) == error.minimum_peak_bytes
    assert error.composition["optimizer state"] == ledger["optimizer state"] * 2 + 4 * 12
