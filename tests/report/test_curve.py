from __future__ import annotations

import builtins
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autockpt
from autockpt.report.curve.points import CurvePoint, SimplePoint, knee_of
from autockpt.report.curve.value import Curve
from autockpt_solvers import SolveStatus
from tests.plans import PLAN


def _point(budget: int, cost: int | None, bound: int = 0) -> CurvePoint:
    if cost is None:
        return CurvePoint(budget_bytes=budget, status=SolveStatus.INFEASIBLE, method="ilp")
    return CurvePoint(
        budget_bytes=budget,
        status=SolveStatus.OPTIMAL if cost == bound else SolveStatus.FEASIBLE,
        method="ilp",
        predicted_peak_bytes=budget,
        recompute_ns=cost,
        overhead=cost / 1000,
        lower_bound_ns=bound,
        lower_bound=bound / 1000,
    )


CURVE = Curve(
    points=tuple(
        _point(*values)
        for values in ((80, None), (100, 800, 400), (120, 200, 150), (160, 100, 90), (200, 0))
    ),
    minimum_peak_bytes=100,
    minimum_bound_bytes=90,
    baseline_peak_bytes=200,
    baseline_step_ns=1000,
    simple=(SimplePoint(method="sqrt", predicted_peak_bytes=130, recompute_ns=500, overhead=0.5),),
    device="cpu",
    cost_source="measured",
    rung="whole",
    solve_time_s=1.5,
    notes=("a note",),
)


def test_the_knee_is_the_point_farthest_below_the_line() -> None:
    assert CURVE.knee == CURVE.points[2]
    straight = [_point(100, 300), _point(200, 200), _point(300, 100), _point(400, 0)]
    assert knee_of(straight) is None
    assert knee_of([_point(100, 5), _point(200, 5), _point(300, 5)]) is None
    assert knee_of([_point(100, None), _point(200, 9), _point(300, 0)]) is None


def test_a_curve_is_read_as_it_was_written_and_a_damaged_one_is_refused() -> None:
    assert Curve.from_json(CURVE.to_json()) == CURVE
    document = json.loads(CURVE.to_json())
    for change, message in (
        ({"version": 7}, "of version 7"),
        ({"format": "autockpt plan"}, '"format": "autockpt curve"'),
        ({"minimum_peak_bytes": "many"}, "damaged"),
        ({"more": 1}, "the field 'more' is unknown"),
        ({"points": []}, "points must be one or more"),
        ({"points": document["points"][::-1]}, "ascending budgets"),
    ):
        with pytest.raises(ValueError, match=message):
            Curve.from_json(json.dumps(document | change))
    with pytest.raises(ValueError, match="not JSON"):
        Curve.from_json("{")
    with pytest.raises(TypeError, match="read from a str"):
        Curve.from_json(b"{}")  # type: ignore[arg-type]


def test_rows_have_every_point_and_mark_the_knee() -> None:
    frame = CURVE.to_dataframe()
    assert list(frame["budget_bytes"]) == [80, 100, 120, 160, 200, 130]
    assert list(frame["kind"]) == ["plan"] * 5 + ["simple"]
    assert frame[frame["is_knee"]]["budget_bytes"].tolist() == [120]
    assert frame["recompute_ns"].isna().tolist() == [True] + [False] * 5
    lines = CURVE.to_csv().splitlines()
    assert lines[0].startswith("kind,method,status,budget_bytes,")
    assert lines[1] == "plan,ilp,infeasible,80,,,,,,False"
    assert lines[-1] == "simple,sqrt,,130,130,500,0.5,,,False"


def test_the_text_shows_points_ends_and_simple_methods() -> None:
    text = str(CURVE)
    assert all(len(line) <= 100 and line.isascii() for line in text.splitlines())
    assert "no plan fits (proven)" in text
    knee = next(line for line in text.splitlines() if line.endswith("<- knee"))
    assert knee.split()[:8] == ["120", "B", "120", "B", "+20.0%", "+15.0%", "|########==", "<-"]
    assert "least found; at least 90 B" in text
    assert "+50.0%  (the curve: +20.0% at 120 B)" in text
    assert "a note" in text


def test_pictures_are_written_and_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CURVE.save_plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    CURVE.save_plot(tmp_path / "curve.svg")
    svg = (tmp_path / "curve.svg").read_text()
    assert all(name in svg for name in ("proven bound", "knee", "sqrt", "eager", "minimum"))
    CURVE.save_plot(tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == svg
    with pytest.raises(ValueError, match="bmp"):
        CURVE.save_plot(tmp_path / "curve.bmp")

    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.partition(".")[0] in ("matplotlib", "pandas"):
            raise ImportError(name)
        return real(name, *args)

    for name in [n for n in sys.modules if n.partition(".")[0] in ("matplotlib", "pandas")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "autockpt\[plot\]"'):
        CURVE.save_plot(tmp_path / "curve.png")
    with pytest.raises(ImportError, match="pip install pandas"):
        CURVE.to_dataframe()


def test_a_plan_without_a_graph_or_of_several_calls_has_no_curve() -> None:
    with pytest.raises(ValueError, match="this plan has no graph"):
        PLAN.curve()
    model, x = nn.Linear(4, 4), torch.ones(2, 4)
    made = autockpt.plan(
        model, "100%", sample_args=(x,), loss_fn=torch.sum, method="none", progress=False
    )
    fixed = dataclasses.replace(made.fixed, other_calls_bytes=8)
    several = dataclasses.replace(made, fixed=fixed, predicted_peak_bytes=made.budget_bytes + 8)
    with pytest.raises(ValueError, match="several calls that share a backward"):
        several.curve()


def test_the_curve_of_a_model_is_that_of_its_plan(tmp_path: Path) -> None:
    """Every point fits, counts what `plan` counts, and is what `plan` finds for that budget."""
    layers = [nn.Sequential(nn.Linear(32, 32), nn.GELU()) for _ in range(4)]
    model, x = nn.Sequential(*layers), torch.ones(256, 32)
    options: dict[str, Any] = {"sample_args": (x,), "loss_fn": torch.sum, "progress": False}
    curve = autockpt.pareto(model, 5, optimizer="sgd", method="greedy", **options)
    costs = [point.recompute_ns for point in curve.points]
    assert None not in costs
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == 0 < (costs[0] or 0)
    assert curve.points[-1].budget_bytes == curve.baseline_peak_bytes
    assert curve.points[0].budget_bytes == curve.minimum_peak_bytes
    made = autockpt.plan(model, "100%", optimizer="sgd", method="none", **options)
    assert made.baseline_peak_bytes == curve.baseline_peak_bytes
    made.save(tmp_path / "plan.json")
    budgets = ["1B", "80%", curve.baseline_peak_bytes]
    again = autockpt.Plan.load(tmp_path / "plan.json").curve(budgets, method="greedy")
    assert [point.fits for point in again.points] == [False, True, True]
    assert again.points[0].status == "infeasible"
    at = again.points[1]
    alone = autockpt.plan(model, "80%", optimizer="sgd", method="greedy", **options)
    assert (at.budget_bytes, at.predicted_peak_bytes) == (
        alone.budget_bytes,
        alone.predicted_peak_bytes,
    )
    assert at.recompute_ns is not None
    # Times are measured once per process, so they are the same in all captures.
    assert at.recompute_ns == alone.recompute_ns
    for wrong, error, message in (
        (0, ValueError, "budgets is 0"),
        ("8GB", TypeError, "it must be a list of budgets"),
        ([], ValueError, "budgets is empty"),
        (["much"], ValueError, "'much' is not an amount of memory"),
    ):
        with pytest.raises(error, match=message):
            autockpt.pareto(model, wrong, **options)  # type: ignore[arg-type]


def test_a_notebook_shows_the_picture_and_a_repr_is_short() -> None:
    shown = CURVE._repr_mimebundle_(include=None, exclude=None)
    assert shown["text/plain"] == str(CURVE)
    assert "<svg" in shown["image/svg+xml"]
    assert repr(CURVE).startswith("<Curve: ")
    assert len(repr(CURVE)) < 150
