"""A plan that was made elsewhere: followed if it is for this step, refused with what differs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training import assert_same_training

import autockpt
from autockpt.lower import problem
from autockpt_solvers import Problem, solve

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


def net(num_blocks: int = 3) -> nn.Module:
    torch.manual_seed(0)
    blocks = (
        nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 16))
        for _ in range(num_blocks)
    )
    return nn.Sequential(*blocks)


def loss_of(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def plan_of(model: nn.Module, budget: str = "80%") -> autockpt.Plan:
    return autockpt.plan(
        model, budget, sample_args=(X,), loss_fn=loss_of, optimizer="sgd", method="greedy"
    )


def follow(model: nn.Module, plan: Any, **options: Any) -> nn.Module:
    options = {"loss_fn": loss_of, "optimizer": "sgd", "sample_args": (X,)} | options
    return autockpt.optimize(model, plan=plan, **options)


def only_none(asked: Problem, **options: Any) -> Any:
    """What eager itself needs is asked of the method `none`."""
    assert options["method"] == "none", "a solver ran"
    return solve(asked, **options)


@pytest.mark.parametrize("as_file", [False, True])
def test_a_plan_of_another_process_is_followed(
    as_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan: Any = plan_of(net())
    schedule = plan.schedule
    if as_file:
        plan.save(tmp_path / "plan.json")
        plan = tmp_path / "plan.json"
    monkeypatch.setattr(problem, "solve", only_none)
    model = follow(net(), plan)
    followed = autockpt.get_plan(model)
    assert followed is not None
    assert followed.schedule == schedule
    assert followed.recompute_ns > 0
    assert followed.measured_peak_bytes is not None
    assert followed.measured_peak_bytes <= followed.budget_bytes
    assert_same_training(net(), model, (X,), loss_fn=loss_of)


def test_a_plan_for_another_model_is_refused_with_what_differs() -> None:
    model = net(4)
    with pytest.raises(autockpt.PlanMismatchError, match=r"operation \d+: in the plan") as caught:
        follow(model, plan_of(net()))
    assert "operations, and this step has" in caught.value.difference
    assert "forward" not in vars(model)
    assert all(p.grad is None for p in model.parameters())


def test_a_plan_for_another_loss_is_refused() -> None:
    with pytest.raises(autockpt.PlanMismatchError):
        follow(net(), plan_of(net()), loss_fn=lambda y: y.abs().sum())


def test_a_plan_that_needs_more_than_the_budget_is_refused() -> None:
    plan = plan_of(net())
    with pytest.raises(ValueError, match="more than the budget"):
        follow(net(), plan, budget=plan.predicted_peak_bytes - 1)


def test_a_budget_may_be_larger_than_the_plans() -> None:
    plan = plan_of(net())
    model = follow(net(), plan, budget=plan.predicted_peak_bytes + 1000)
    followed = autockpt.get_plan(model)
    assert followed is not None
    assert followed.schedule == plan.schedule


def test_without_a_budget_there_must_be_a_plan() -> None:
    with pytest.raises(TypeError, match="only with a plan"):
        autockpt.optimize(net())


def test_what_is_no_plan_is_told(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="plan is a int"):
        follow(net(), 3)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        follow(net(), tmp_path / "none.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot load a plan"):
        follow(net(), tmp_path / "other.json")


def test_other_inputs_are_planned_when_they_come() -> None:
    model = follow(net(), plan_of(net()))
    first = autockpt.get_plan(model)
    loss_of(model(torch.cat([X, X[:2]]))).backward()
    second = autockpt.get_plan(model)
    assert first is not None
    assert second is not None
    assert second.graph != first.graph


def test_a_plan_for_a_rung_that_the_step_cannot_take_is_refused() -> None:
    plan = plan_of(net())
    refused = pytest.raises(autockpt.PlanMismatchError, match='rung "whole"')
    with torch.nn.modules.module.register_module_forward_hook(lambda *_: None), refused:
        follow(net(), plan)


@pytest.mark.parametrize("verify", [False, True])
def test_a_plan_that_leaves_the_model_is_followed(verify: bool) -> None:
    plan = autockpt.plan(net(), "1GB", sample_args=(X,), loss_fn=loss_of, optimizer="sgd")
    model = follow(net(), dataclasses.replace(plan, rung="eager"), verify=verify)
    followed = autockpt.get_plan(model)
    assert followed is not None
    assert followed.rung == "eager"


def test_a_plan_for_another_width_is_refused_even_if_eager_fits() -> None:
    smaller = nn.Sequential(*(nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 16)) for _ in "ab"))
    with pytest.raises(autockpt.PlanMismatchError):
        follow(smaller, plan_of(net()))


def test_a_plan_for_another_optimizer_says_so() -> None:
    with pytest.raises(autockpt.BudgetError) as caught:
        follow(net(), plan_of(net()), optimizer="adamw")
    assert "made for the optimizer sgd, and this step's is adamw" in str(caught.value.__notes__)
