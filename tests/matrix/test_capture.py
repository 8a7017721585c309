"""The row of the capture: captured graphs by themselves, nothing run twice."""

from __future__ import annotations

import copy

import pytest
from tiny_models import MODELS, build
from training import assert_same_training, peak_bytes

from autockpt.budget import parse_budget
from autockpt.ladder.graphs import GraphPlanner
from autockpt.ladder.step import StepToPlan
from autockpt.profile.optimizer import optimizer_memory
from autockpt.request import Request

# The others are longer, and alike.
FEW = ("gpt2", "sequential", "control_flow")


@pytest.mark.row(
    "the capture itself", "models of model libraries, a graph break; nothing run twice"
)
@pytest.mark.parametrize(
    "name", [n if n in FEW else pytest.param(n, marks=pytest.mark.full) for n in MODELS]
)
def test_captured_graphs_are_eagers_steps(name: str) -> None:
    """At a budget of eager's peak the model would run as it is: the graphs are followed by hand."""
    tiny = build(name)
    model, args, kwargs = tiny.model, tiny.args, tiny.kwargs
    eager = copy.deepcopy(model)
    optimizer = optimizer_memory("adamw", model.parameters())
    request = Request(
        budget=parse_budget("200%"), optimizer=optimizer, loss_fn=None, method="none",
        time_limit_s=1.0,
    )  # fmt: skip
    step = StepToPlan(
        module=model, forward=model.forward, args=args, kwargs=kwargs, request=request
    )
    planned = GraphPlanner.capture(step).plan()
    assert planned.plan.recompute_ns == 0
    model.forward = planned.forward_of(model, model.forward, in_order=False)
    assert_same_training(eager, model, args, kwargs)
    assert peak_bytes(model, args, kwargs) <= planned.plan.predicted_peak_bytes
