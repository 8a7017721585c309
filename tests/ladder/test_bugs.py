"""A bug in autockpt is reported as one: it never passes for a model that a rung cannot run."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from ladder_models import Block
from torch import nn
from training import differing, train

import autockpt
from autockpt import progress
from autockpt.checkpoint import calls, cost
from autockpt.ladder import graphs
from autockpt.ladder.ladder import Ladder, Rung, leads_down
from autockpt_solvers import MethodError

X = torch.randn(256, 32, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x.square().mean()


def small() -> nn.Module:
    torch.manual_seed(0)
    return Small().train()


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("this stage divides by nothing")


def optimized(model: nn.Module) -> nn.Module:
    return autockpt.optimize(model, "80%", sample_args=(X,), optimizer="sgd", method="greedy")


@pytest.mark.parametrize("stage", ["profile", "lower"])
def test_the_variable_raises_a_bug_at_once(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCKPT_RAISE", "1")
    monkeypatch.setattr(graphs, stage, broken)
    model = small()
    before = copy.deepcopy(model)
    with pytest.raises(autockpt.InternalError, match=f"a bug in autockpt: the {stage} stage") as e:
        optimized(model)
    assert isinstance(e.value.__cause__, ZeroDivisionError)
    assert "forward" not in model.__dict__
    assert differing(train(before, (X,)), train(model, (X,))) == []


@pytest.mark.parametrize(("value", "leads"), [("", True), ("0", True), ("1", False), ("y", False)])
def test_what_the_variable_may_be(value: str, leads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCKPT_RAISE", value)
    bug = autockpt.InternalError(stage="profile", cause=ZeroDivisionError("mine"))
    assert leads_down(bug) is leads


def test_without_the_variable_a_bug_leads_down_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AUTOCKPT_RAISE")
    monkeypatch.setattr(graphs, "profile", broken)
    model = small()
    eager = copy.deepcopy(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimized(model)
    messages = [str(w.message) for w in caught if "a bug in autockpt" in str(w.message)]
    assert "this stage divides by nothing" in messages[0]
    assert "Please report it with the model and the whole traceback (autockpt " in messages[0]
    assert "falls back from the rung 'whole'. Set AUTOCKPT_RAISE=1 to raise" in messages[0]
    plan = autockpt.get_plan(model)
    assert plan.rung == "checkpoint"
    assert "fell back because of whole: a bug in autockpt" in plan.notes[-1]
    assert differing(train(eager, (X,)), train(model, (X,))) == []


def test_plan_tells_of_a_bug_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "profile", broken)
    with pytest.raises(autockpt.InternalError, match="profile stage"):
        autockpt.plan(small(), "90%", sample_args=(X,), method="greedy")
    monkeypatch.delenv("AUTOCKPT_RAISE")
    with pytest.warns(UserWarning, match="a bug in autockpt: the profile stage"):
        plan = autockpt.plan(small(), "90%", sample_args=(X,), method="greedy")
    assert plan.rung == "checkpoint"


class _Looking(Small):
    """No tracer follows it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
            assert x.abs().mean().item() < 1e6
        return x.square().mean()


@pytest.mark.parametrize(("module", "name"), [(calls, "kind_of"), (cost, "LiveBytes")])
def test_a_bug_while_calls_are_watched_is_not_blamed_on_the_model(
    module: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, broken)
    with pytest.raises(autockpt.InternalError, match="the checkpoint stage failed"):
        optimized(_Looking())


def test_a_users_own_method_raises_its_own_errors() -> None:
    with pytest.raises(MethodError, match="this stage divides by nothing"):
        autockpt.plan(small(), "90%", sample_args=(X,), method=broken)


def test_what_is_neither_the_models_failure_nor_a_bug_comes_out_as_it_is() -> None:
    for error in (torch.OutOfMemoryError("full"), MemoryError(), KeyboardInterrupt()):

        def attempt(error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)):
            Ladder().descend([Rung(name="whole", attempt=attempt)] * 2)


def test_no_lower_rung_begins_after_you_have_ended_the_search() -> None:
    """Ctrl-C in the search of a model with several graphs led on to a capture in blocks."""
    tried = []

    def stopped() -> None:
        tried.append("whole")
        progress.search("solving", limit_s=1.0, step_ns=1)
        assert progress.stop_search()
        raise autockpt.BudgetError(budget_bytes=1, minimum_peak_bytes=2)

    rungs = [
        Rung(name="whole", attempt=stopped),
        Rung(name="blocks", attempt=lambda: tried.append("blocks")),
    ]
    with progress.planning("Net", is_shown=False), pytest.raises(autockpt.BudgetError):
        Ladder().descend(rungs)
    assert tried == ["whole"]
