"""Plans on disk: a second process traces once and trains, and neither profiles nor solves."""

from __future__ import annotations

import dataclasses
import json
import os
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path

import forked
import pytest
from kept_models import Net, X, assert_same, cannot_capture, files, optimized, trained
from torch import nn
from training import Record, train_on

import autockpt
from autockpt.dispatch import kept, maker, trial
from autockpt.ladder import graphs
from autockpt_solvers import SolveStatus


def test_a_kept_plan_is_followed_without_planning(
    folder: Path, no_planning: Callable[[], None]
) -> None:
    expected = trained(Net())
    first = optimized(Net())
    assert_same(expected, trained(first))
    before, after = autockpt.get_plan(first), None
    assert before is not None
    assert before.rung == "whole"
    assert before.recompute_ns > 0
    assert len(files(folder)) == 1
    no_planning()
    second = optimized(Net())
    assert_same(expected, trained(second))
    after = autockpt.get_plan(second)
    assert after is not None
    assert after.schedule == before.schedule
    assert after.measured_peak_bytes == before.measured_peak_bytes
    assert "kept since" in after.notes[-1]


def test_plans_for_sizes_that_vary_are_kept_too(
    folder: Path, no_planning: Callable[[], None]
) -> None:
    """Every process planned again from the second length of a text on."""
    batches = [X, X[:60], X[:50], X[:57]]

    def training(model: nn.Module) -> Record:
        return train_on(model, [((batch,), {}) for batch in batches])

    expected = training(Net())
    first = optimized(Net())
    assert_same(expected, training(first))
    before, after = autockpt.get_plan(first), None
    assert before is not None
    assert before.rung == "whole"
    num_files = len(files(folder))
    assert num_files == 2
    no_planning()
    second = optimized(Net())
    assert_same(expected, training(second))
    after = autockpt.get_plan(second)
    assert after is not None
    assert after.schedule == before.schedule
    assert "kept since" in after.notes[-1]
    assert len(files(folder)) == num_files


SCRIPT = """
    import logging, torch
    from torch import nn
    import autockpt
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
                            for _ in range(3)))
    autockpt.optimize(model, "80%", method="greedy", loss_fn=lambda y: y.square().mean())
    model(torch.ones(64, 16)).square().mean().backward()
    plan = autockpt.get_plan(model)
    print(plan.rung, plan.recompute_ns > 0, "kept since" in str(plan.notes))
"""


def test_another_process_finds_the_plan(folder: Path) -> None:
    def run() -> str:
        done = forked.run(textwrap.dedent(SCRIPT), env=os.environ)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run() == "whole True False"
    assert run() == "whole True True"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"forward":[', '"forward":[0,', 1),
        lambda text: json.dumps({"another": "program's"}),
        lambda text: "\0" * 100,
    ],
    ids=["empty", "half", "changed", "foreign", "zeros"],
)
def test_a_damaged_file_is_planned_anew_and_replaced(
    folder: Path, damage: Callable[[str], str]
) -> None:
    trained(optimized(Net()))
    (file,) = files(folder)
    whole = file.read_text()
    file.write_text(damage(whole))
    model = optimized(Net())
    assert_same(trained(Net()), trained(model))
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert "kept since" not in str(plan.notes)
    model = optimized(Net())
    trained(model)
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert "kept since" in str(plan.notes)


def test_a_folder_that_cannot_be_written_costs_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("AUTOCKPT_CACHE_DIR", str(folder / "file"))
    model = optimized(Net())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        actual = trained(model)
    messages = [str(w.message) for w in caught]
    assert any("kept plans" in m and "AUTOCKPT_CACHE_DIR" in m for m in messages)
    assert_same(trained(Net()), actual)


@pytest.mark.parametrize("is_best", [False, True])
def test_a_plan_that_was_searched_for_less_time_is_searched_again_unless_it_is_the_best(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_best: bool
) -> None:
    trained(optimized(Net(), time_limit_s=5.0))
    original = maker.load

    def with_status(name: str) -> kept.KeptPlan | None:
        found = original(name)
        assert found is not None
        assert found.time_limit_s == 5.0
        status = SolveStatus.OPTIMAL if is_best else SolveStatus.FEASIBLE
        return dataclasses.replace(found, plan=dataclasses.replace(found.plan, status=status))

    monkeypatch.setattr(maker, "load", with_status)
    model = optimized(Net(), time_limit_s=10.0)
    trained(model)
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert ("kept since" in str(plan.notes)) == is_best


def test_a_plan_that_was_not_verified_is_compared_before_it_serves_who_wants_that(
    folder: Path,
) -> None:
    trained(optimized(Net(), verify=False))
    model = optimized(Net())
    assert_same(trained(Net()), trained(model))
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert "verified its bits and its peak" in plan.notes[-1]
    assert plan.measured_peak_bytes is not None


def test_a_plan_serves_where_eager_never_fits(
    folder: Path, monkeypatch: pytest.MonkeyPatch, no_planning: Callable[[], None]
) -> None:
    """Its bits cannot be compared in any process: that is no reason to plan in each."""
    monkeypatch.setattr(trial, "available_bytes", lambda _: 0)
    first = optimized(Net())
    trained(first)
    no_planning()
    second = optimized(Net())
    assert_same(trained(Net()), trained(second))
    plan = autockpt.get_plan(second)
    assert plan is not None
    assert "kept since" in plan.notes[-1]
    assert "verified" not in plan.notes[-1]


def test_a_rung_without_graphs_is_measured_again(
    folder: Path, no_planning: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing tells that the modules still do the same, so the peak is measured in each process."""
    monkeypatch.setattr(graphs, "capture", cannot_capture)
    expected = trained(Net())
    first = optimized(Net())
    with pytest.warns(UserWarning, match="falls back"):
        got = trained(first)
    assert_same(expected, got)
    plan = autockpt.get_plan(first)
    assert plan is not None
    assert plan.rung == "checkpoint"
    no_planning()
    second = optimized(Net())
    with pytest.warns(UserWarning, match="falls back"):
        got = trained(second)
    assert_same(expected, got)
    again = autockpt.get_plan(second)
    assert again is not None
    assert "kept since" in str(again.notes)
    assert again.measured_peak_bytes is not None
    assert again.measured_peak_bytes <= again.budget_bytes
