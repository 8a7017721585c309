"""`plan` and `optimize` find the plans that the other kept; what a bug spoiled is not kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kept_models import Net, Other, X, assert_same, cannot_capture, files, optimized, trained
from torch import nn
from typer.testing import CliRunner

import autockpt
from autockpt.command.cli import _app
from autockpt.dispatch import plan_only
from autockpt.ladder import graphs
from autockpt.lower import problem
from autockpt_solvers import SolveStatus


def planned(model: nn.Module, x: torch.Tensor = X, **options: Any) -> autockpt.Plan:
    options = {"method": "greedy", **options}
    return autockpt.plan(model, "80%", sample_args=(x,), optimizer="adamw", **options)


def forbidden(*_: Any, **__: Any) -> Any:
    raise AssertionError("it was solved again")


@pytest.fixture
def no_solving(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forbids solving from the call on; a step may be captured to see whether a plan serves."""

    def forbid() -> None:
        monkeypatch.setattr(problem, "solve", forbidden)
        monkeypatch.setattr(problem, "minimum_budget", forbidden)

    return forbid


def test_a_plan_is_found_by_plan_and_by_optimize(
    folder: Path, no_solving: Callable[[], None], no_planning: Callable[[], None]
) -> None:
    """`plan` solved again in every process, and so did the `optimize` that came after it."""
    first = planned(Net())
    assert first.recompute_ns > 0
    assert not any("kept since" in note for note in first.notes)
    assert len(files(folder)) == 1
    no_solving()
    again = planned(Net())
    assert (again.schedule, again.graph) == (first.schedule, first.graph)
    assert "kept since" in again.notes[-1]
    assert "verified" not in again.notes[-1]
    no_planning()
    expected = trained(Net())
    # Nobody has verified the plan yet: the first process that trains does, and the next need not.
    for _ in range(2):
        model = optimized(Net())
        assert_same(expected, trained(model))
        followed = autockpt.get_plan(model)
        assert followed is not None
        assert followed.schedule == first.schedule
        assert followed.measured_peak_bytes is not None
        assert [note.count("kept since") for note in followed.notes].count(1) == 1
        assert "verified its bits and its peak" in followed.notes[-1]
    assert len(files(folder)) == 1


def test_plan_returns_what_optimize_kept(folder: Path, no_solving: Callable[[], None]) -> None:
    model = optimized(Net())
    trained(model)
    followed = autockpt.get_plan(model)
    assert followed is not None
    no_solving()
    made = planned(Net())
    assert (made.schedule, made.measured_peak_bytes) == (
        followed.schedule,
        followed.measured_peak_bytes,
    )
    assert "verified its bits and its peak" in made.notes[-1]


def test_plan_returns_no_plan_of_another_graph(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_only, "identity", lambda *_, **__: "same")
    planned(Net())
    made = planned(Other())
    assert not any("kept since" in note for note in made.notes)
    # The new one is kept instead.
    assert "kept since" in planned(Other()).notes[-1]
    assert len(files(folder)) == 1


def test_a_plan_without_data_is_kept_beside_one_with_data(
    folder: Path, no_solving: Callable[[], None]
) -> None:
    """Its times are estimated, and nothing can be measured for it."""

    def estimated() -> autockpt.Plan:
        with torch.device("meta"):
            model = Net()
        return planned(model, X.to("meta"))

    assert estimated().cost_source == "roofline"
    assert planned(Net()).cost_source == "measured"
    assert len(files(folder)) == 2
    no_solving()
    again = estimated()
    assert again.cost_source == "roofline"
    assert "kept since" in again.notes[-1]


def test_a_model_that_fits_as_it_is_stays_so_by_a_kept_plan(
    folder: Path, no_solving: Callable[[], None]
) -> None:
    fits: dict[str, Any] = {"optimizer": "adamw", "method": "greedy"}
    made = autockpt.plan(Net(), "1GB", sample_args=(X,), **fits)
    assert made.leaves_the_model
    no_solving()
    model = autockpt.optimize(Net(), "1GB", **fits)
    assert_same(trained(Net()), trained(model))
    followed = autockpt.get_plan(model)
    assert followed is not None
    assert followed.rung == "eager"
    assert followed.measured_peak_bytes is not None
    assert "kept since" in followed.notes[-1]


def test_a_search_that_was_cut_short_does_not_serve_one_that_was_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`autockpt plan --time-limit 1` decided what every later process trained by."""
    monkeypatch.setattr(graphs, "capture", cannot_capture)  # the rung below is quicker

    def is_kept(time_limit_s: float | None) -> bool:
        made = planned(Net(), time_limit_s=time_limit_s)
        assert made.status is SolveStatus.FEASIBLE
        return any("kept since" in note for note in made.notes)

    assert not is_kept(1.0)
    assert is_kept(0.5)
    assert not is_kept(None)  # it may search longer than a second
    assert is_kept(None)
    assert not is_kept(90.0)  # it does not end when it has stalled
    assert is_kept(None)


def test_calls_of_modules_are_found_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, no_solving: Callable[[], None]
) -> None:
    monkeypatch.setattr(graphs, "capture", cannot_capture)
    first = planned(Net())
    assert first.rung == "checkpoint"
    assert "fell back because of" in first.notes[-1]
    no_solving()
    again = planned(Net())
    assert (again.rung, again.schedule) == ("checkpoint", first.schedule)
    assert again.notes[:-1] == first.notes


def test_what_a_bug_left_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A passing bug of autockpt's led to a lower rung, and all later processes trained there."""
    monkeypatch.setenv("AUTOCKPT_RAISE", "0")
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "profile", lambda *_, **__: 1 / 0)
        model = optimized(Net())
        with pytest.warns(UserWarning, match="a bug in autockpt"):
            got = trained(model)
        # The rung stays given up for inputs of other sizes, whose plans are no better.
        model(torch.cat([X, X])).backward()
        with pytest.warns(UserWarning, match="a bug in autockpt"):
            assert planned(Net()).rung == "checkpoint"
    assert_same(trained(Net()), got)
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert plan.rung == "checkpoint"
    assert files(folder) == []
    model = optimized(Net())
    trained(model)
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert plan.rung == "whole"


def test_the_command_line_keeps_plans_and_says_so(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_solving: Callable[[], None],
) -> None:
    monkeypatch.setenv("AUTOCKPT_PROGRESS", "1")
    monkeypatch.setattr("autockpt.progress.current.SILENT_S", 0.0)

    model = tmp_path / "kept_by_the_command.py"
    model.write_text(
        "from kept_models import Net, X\n"  # as small as a model can be
        "def make():\n"
        "    return Net(), X\n"
    )

    def run(*options: str) -> str:
        arguments = ("plan", f"{model}:make", "--budget", "80%", "--method", "greedy", *options)
        done = CliRunner().invoke(_app, arguments)
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    assert "kept in" not in run("--anew")
    assert files(folder) == []
    told = run()
    (file,) = files(folder)
    assert file.name in told.replace(" ", "")
    assert "1 kept" in CliRunner().invoke(_app, ("cache", "info")).output
    no_solving()
    shown = run()
    assert "kept from an earlier process" in shown
    assert "kept since" in shown
    assert CliRunner().invoke(_app, ("cache", "clear")).exit_code == 0
    assert not file.exists()
