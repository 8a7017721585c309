"""The row of the capture: captured graphs by themselves, nothing run twice."""

from __future__ import annotations

import copy

import pytest
import torch
from both import differing, steps
from tiny_models import MODELS, build
from torch.utils._pytree import tree_leaves

from autockpt.budget import parse_budget
from autockpt.ladder.graphs import GraphPlanner
from autockpt.ladder.step import StepToPlan
from autockpt.profile.optimizer import optimizer_memory
from autockpt.request import Request
from autockpt.verify.live_bytes import distinct_bytes
from autockpt.verify.loss import find_loss
from autockpt.verify.peak import measure_peak_bytes

# The others are longer, and alike.
FEW = ("gpt2", "sequential", "control_flow")


def _loss(output: object) -> torch.Tensor:
    return torch.stack([loss.sum() for loss in find_loss(output, None)]).sum()


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
    expected = steps(copy.deepcopy(model), args, kwargs, _loss)
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
    assert differing(expected, steps(model, args, kwargs, _loss)) == []
    model.zero_grad(set_to_none=True)
    peak_bytes = measure_peak_bytes(lambda: _loss(model(*args, **kwargs)).backward())
    inputs = tree_leaves((args, kwargs))
    peak_bytes += distinct_bytes([*model.parameters(), *model.buffers(), *inputs])
    assert peak_bytes + optimizer.state_bytes <= planned.plan.predicted_peak_bytes
