"""Cost models of the user: what they see, what they decide, and what is wrong with some."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from kept_models import files
from ladder_models import Recurrent, built
from torch import nn
from typer.testing import CliRunner

import autockpt
from autockpt import Operation
from autockpt.command.cli import _app

X = torch.randn(512, 32, generator=torch.Generator().manual_seed(0))
_OPTIONS: dict[str, Any] = {
    "sample_args": (X,),
    "loss_fn": torch.sum,
    "optimizer": "sgd",
    "method": "greedy",
}


def _model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(32, 32), nn.GELU()) for _ in range(3)]
    return nn.Sequential(*layers)


def test_a_cost_model_sees_the_operations_and_decides_what_they_cost() -> None:
    seen: list[Operation] = []

    def cost(operation: Operation) -> float:
        seen.append(operation)
        return 1000 if operation.kind == "matmul" else 1

    plan = autockpt.plan(_model(), "85%", cost=cost, **_OPTIONS)
    assert plan.graph is not None
    assert plan.cost_source == "model"
    assert any("the cost model is test_a_cost_model" in note for note in plan.notes)
    assert "are those of a cost model" in str(plan)
    assert {op.runtime_ns for op in plan.graph.ops} == {0, 1, 1000}
    (first,) = [op for op in seen if op.module == "0.0" and not op.is_backward]
    assert first.operator == "aten.addmm.default"
    assert (32, 32) in first.input_shapes
    assert first.output_shapes == ((512, 32),)
    assert first.output_dtypes == (torch.float32,)
    assert first.num_flops == 2 * 512 * 32 * 32
    assert first.moved_bytes == 4 * (2 * 512 * 32 + 32 * 32 + 32)
    assert first.runtime_ns > 0
    assert first.device == "cpu"
    assert first.node.name == first.name
    assert {op.module for op in seen if op.is_backward} >= {"0.0", "1.0", "2.0", "0.1"}
    assert plan.baseline_step_ns == plan.graph.total_runtime_ns
    assert 0 < plan.recompute_ns % 1000 < 10


def test_a_pair_decides_the_workspace_too() -> None:
    def cost(operation: Operation) -> tuple[float, float]:
        return 1.0, 2**20 if operation.kind == "matmul" else 0

    with_workspace = autockpt.plan(_model(), "100%", cost=cost, **_OPTIONS)
    without = autockpt.plan(_model(), "100%", cost=lambda operation: (1, 0), **_OPTIONS)
    difference = with_workspace.baseline_peak_bytes - without.baseline_peak_bytes
    assert 2**20 - 2**16 <= difference <= 2**20


def test_training_follows_the_cost_model_bit_for_bit() -> None:
    model, eager = _model(), _model()
    autockpt.optimize(model, "85%", cost=lambda op: op.num_flops + 1, **_OPTIONS)
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert plan.cost_source == "model"
    assert plan.recompute_ns > 0
    for each in (model, eager):
        torch.sum(each(X)).backward()
    for ours, theirs in zip(model.parameters(), eager.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda op: -1, "returned -1 as time_ns for addmm"),
        (lambda op: math.nan, "returned nan as time_ns"),
        (lambda op: math.inf, "returned inf as time_ns"),
        (lambda op: "fast", "returned 'fast', a str, as time_ns"),
        (lambda op: None, "returned None, a NoneType, as time_ns"),
        (lambda op: True, "returned True, a bool, as time_ns"),
        (lambda op: (1, -1), "returned -1 as workspace_bytes"),
        (lambda op: (1, 2, 3), r"returned a tuple of 3 for addmm .*\(time_ns, workspace_bytes\)"),
        (lambda op: 1 / 0, "raised ZeroDivisionError: division by zero"),
    ],
    ids=["negative", "nan", "inf", "text", "none", "bool", "workspace", "triple", "raises"],
)
def test_a_wrong_cost_is_named_with_its_function_and_its_operation(
    answer: Callable[[Operation], Any], message: str
) -> None:
    model = _model()
    with pytest.raises(autockpt.CostError, match=message) as caught:
        autockpt.optimize(model, "85%", cost=answer, **_OPTIONS)
    assert "(aten.addmm.default of 0.0)" in str(caught.value)
    assert "lambda" in caught.value.model
    assert caught.value.operation == "addmm"
    assert autockpt.get_plan(model) is None
    assert "forward" not in vars(model)


def test_any_kind_of_number_is_a_cost() -> None:
    plan = autockpt.plan(_model(), "90%", cost=lambda op: Fraction(7, 2), **_OPTIONS)
    assert plan.graph is not None
    assert {op.runtime_ns for op in plan.graph.ops} == {0, 4}


def test_what_is_no_cost_model_is_refused_before_the_capture() -> None:
    with pytest.raises(TypeError, match="cost is a int; it must be a function of an operation"):
        autockpt.plan(_model(), "90%", cost=3, **_OPTIONS)
    with pytest.raises(ValueError, match=r"no 'mine' among the entry points of autockpt\.costs"):
        autockpt.plan(_model(), "90%", cost="mine", **_OPTIONS)


def test_plans_of_different_cost_models_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan by other times is another plan, even if the functions have one name."""

    def priced(factor: int) -> Callable[[Operation], float]:
        def cost(operation: Operation) -> float:
            return factor * operation.num_flops + 1

        return cost

    monkeypatch.setenv("AUTOCKPT_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("AUTOCKPT_PLAN_CACHE", "1")
    table = {"addmm": 1}
    for count, cost in ((1, None), (2, priced(1)), (3, priced(2)), (3, priced(1))):
        model = _model()
        autockpt.optimize(model, "92%", cost=cost, **_OPTIONS)
        assert len(files(tmp_path)) == count
    # What a dict holds is not counted, so nothing is kept.
    autockpt.optimize(_model(), "92%", cost=lambda op: table.get(op.name, 1), **_OPTIONS)
    assert len(files(tmp_path)) == 3


def test_calls_of_modules_are_measured_whatever_the_cost_model() -> None:
    model, x = built(Recurrent)
    plan = autockpt.plan(
        model, "90%", sample_args=(x,), cost=lambda operation: 1, optimizer="sgd", method="greedy"
    )
    assert plan.rung == "checkpoint"
    assert plan.cost_source == "measured"
    assert any("the cost model was not asked" in note for note in plan.notes)


def _installed(folder: Path, group: str, value: str) -> None:
    """A package with one entry point, as pip would install it."""
    info = folder / "research-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: research\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\nmine = {value}\n")
    (folder / "research_costs.py").write_text(
        "from autockpt_solvers import with_frees\n"
        "def flops(operation):\n"
        "    return operation.num_flops + 1\n"
        "def keep_all(problem, *, time_limit_s, seed):\n"
        "    return with_frees(problem.graph, range(len(problem.graph.ops)))\n"
        "number = 3\n"
    )


@pytest.mark.parametrize(
    ("group", "value", "option", "shown"),
    [
        ("autockpt.costs", "research_costs:flops", "--cost", "the cost model is flops"),
        ("autockpt.methods", "research_costs:keep_all", "--method", "keep_all in"),
    ],
)
def test_installed_methods_and_costs_are_found_by_name(
    group: str,
    value: str,
    option: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _installed(tmp_path, group, value)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_for_costs.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Linear(8, 8), torch.ones(8, 8)\n"
    )
    args = ("plan", f"{tmp_path}/mine_for_costs.py:make", "--loss", "sum", "--budget", "100%")
    result = CliRunner().invoke(_app, (*args, option, "mine"))
    assert result.exit_code == 0, result.output
    assert shown in result.output
    result = CliRunner().invoke(_app, (*args, option, "yours"))
    assert result.exit_code == 2
    assert re.search(r"\bmine\b", result.output)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("research_costs:number", "is a int; it must be a function"),
        ("research_costs:missing", "cannot be loaded: AttributeError"),
        ("no_such_module:flops", "cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_a_damaged_entry_point_is_named(
    value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _installed(tmp_path, "autockpt.costs", value)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        autockpt.plan(_model(), "90%", cost="mine", **_OPTIONS)
    assert f"the entry point 'mine' of autockpt.costs ({value})" in str(caught.value)
