"""What planning traced is what runs, and it is compared with eager before a solver starts.

Tracing a model twice took half of the time to the first step. A capture that was not the model's
step was solved, compiled and tried before anybody noticed, and then once more on the next rung.
"""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from training import assert_same_training

import autockpt
from autockpt.capture import compiled
from autockpt.capture.step import capture
from autockpt.loop import Loop
from autockpt.lower import problem
from autockpt_solvers import Problem

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.GELU(), nn.Dropout(0.1),
                          nn.Linear(64, 16))
            for _ in range(3)
        )  # fmt: skip
        self.scale = nn.Parameter(torch.ones(16))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count = self.count + 1
        self.last = x
        for block in self.blocks:
            x = x + block(x)
        return (x * self.scale).square().mean()


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes each graph that AOTAutograd traces."""
    numbers: list[int] = []
    original = compiled.compile_joint

    def noted(*args: Any, **kwargs: Any) -> Any:
        numbers.append(len(args[0].graph.nodes))
        return original(*args, **kwargs)

    monkeypatch.setattr(compiled, "compile_joint", noted)
    return numbers


def test_a_model_is_traced_once(traces: list[int]) -> None:
    model = autockpt.optimize(Net(), "80%", method="greedy")
    assert_same_training(Net(), model, (X,))
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert (plan.rung, plan.recompute_ns > 0) == ("whole", True)
    assert len(traces) == 1


class InTwoGraphs(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks[0](x)
        torch._dynamo.graph_break()
        return self.blocks[1](x).square().mean()


def test_what_is_between_two_graphs_is_traced_with_fakes_and_again(traces: list[int]) -> None:
    model = autockpt.optimize(InTwoGraphs(), "90%", method="greedy")
    assert_same_training(InTwoGraphs(), model, (X,))
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert plan.rung == "whole"
    assert len(traces) == 4


def test_another_plan_for_the_same_graphs_takes_no_trace(traces: list[int]) -> None:
    """A step over its budget is planned anew, and follows the new plan as it is compiled."""
    from autockpt.dispatch import trial

    measured: list[int] = []
    original = trial.Trial._peak_bytes

    def more_at_first(self: Any, *args: Any, **kwargs: Any) -> int:
        peak_bytes = original(self, *args, **kwargs)
        measured.append(peak_bytes)
        return peak_bytes + (20_000 if len(measured) == 1 else 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial.Trial, "_peak_bytes", more_at_first)
        model = autockpt.optimize(Net(), "80%", method="greedy", sample_args=(X,))
    assert len(measured) > 1
    assert len(traces) == 1
    assert_same_training(Net(), model, (X,))


def test_a_capture_changes_nothing_of_the_model() -> None:
    """Dynamo traces the model's own tensors, and only its fakes are computed with."""
    model = Net()
    model.scale.grad = torch.ones(16)
    before = copy.deepcopy(model.state_dict())
    versions = {name: t._version for name, t in model.state_dict(keep_vars=True).items()}
    state, x = torch.get_rng_state(), X.clone()
    captured = capture(model, model.forward, (x,), {}, loop=Loop(accumulates=True))
    assert captured.compiled is not None
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    after = {name: t._version for name, t in model.state_dict(keep_vars=True).items()}
    assert after == versions
    assert torch.equal(model.scale.grad, torch.ones(16))
    assert all(p.grad is None for name, p in model.named_parameters() if name != "scale")
    assert "last" not in vars(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, X)


class ReturnsItsParameter(Net):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": super().forward(x) + self.scale.sum(), "scale": self.scale}


class TakesFromItsInput(Net):
    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        return super().forward(batch.pop("x"))


def test_a_forward_that_returns_a_parameter_as_it_is() -> None:
    model = autockpt.optimize(ReturnsItsParameter(), "80%", method="greedy")
    assert_same_training(ReturnsItsParameter(), model, (X,))


def test_a_forward_that_empties_its_input(traces: list[int]) -> None:
    model = autockpt.optimize(TakesFromItsInput(), "80%", method="greedy")
    batch = {"x": X}
    model(batch).backward()
    assert batch == {}
    model = autockpt.optimize(TakesFromItsInput(), "80%", method="greedy")
    assert_same_training(TakesFromItsInput(), model, ({"x": X},))


class OtherUnderTracing(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loss = super().forward(x)
        return loss * 1.5 if torch.compiler.is_compiling() else loss


def test_a_capture_that_is_not_eagers_step_is_not_solved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    num_graphs: list[int] = []
    original = problem.solve

    def noted(asked: Problem, **options: Any) -> Any:
        if options["method"] != "none":  # which is asked for what eager itself needs
            num_graphs.append(len({op.region for op in asked.graph.ops}))
        return original(asked, **options)

    model = autockpt.optimize(OtherUnderTracing(), "80%", method="greedy")
    monkeypatch.setattr(problem, "solve", noted)
    with pytest.warns(UserWarning, match="what was captured is not bit-equal to eager's step"):
        model(X).backward()
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert plan.rung == "blocks"
    assert num_graphs == [3]


def test_a_copy_follows_the_plan_with_code_of_its_own(traces: list[int]) -> None:
    model = autockpt.optimize(Net(), "80%", method="greedy", sample_args=(X,))
    twin = copy.deepcopy(model)
    assert len(traces) == 1
    assert_same_training(Net(), twin, (X,))
    assert len(traces) == 2
    assert_same_training(Net(), model, (X,))
    assert len(traces) == 2


def test_planning_keeps_no_batch_and_no_model_alive() -> None:
    """Dynamo keeps every backend: one that led to fakes held the first batch to the end."""
    model, x = Net(), X.clone()
    autockpt.optimize(model, "80%", method="greedy")
    model(x).backward()
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert plan.rung == "whole"
    del model.last  # the model's own attribute
    kept = [weakref.ref(value) for value in (x, model, model.scale)]
    del x
    gc.collect()
    assert kept[0]() is None
    del model
    gc.collect()
    assert [reference() for reference in kept] == [None, None, None]


def test_what_is_compiled_anew_is_not_measured_while_it_compiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from autockpt.verify import step

    monkeypatch.setattr(compiled.CompiledGraph, "takes_others", False)
    asked: list[bool] = []
    original = step.Step.record

    def noted(self: Any, *, warm_up: bool, measures_peak: bool = True) -> Any:
        if measures_peak:
            asked.append(warm_up)
        return original(self, warm_up=warm_up, measures_peak=measures_peak)

    monkeypatch.setattr(step.Step, "record", noted)
    model = autockpt.optimize(Net(), "80%", method="greedy", sample_args=(X,))
    assert asked == [False, True]  # eager, then the plan
    assert_same_training(Net(), model, (X,))
