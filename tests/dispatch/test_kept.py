"""Plans on disk: a second process traces once, tries the plan, and neither profiles nor solves."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autockpt
from autockpt.dispatch import kept, maker, trial
from autockpt.dispatch.identity import _code
from autockpt.ladder import graphs
from autockpt.lower import problem
from autockpt_solvers import SolveStatus
from tests.training import CPU, Record, differing, seed_generators, train

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder in which plans are kept."""
    monkeypatch.setenv("AUTOCKPT_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("AUTOCKPT_PLAN_CACHE", "1")
    return tmp_path


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = (
            nn.Linear(16, 64),
            nn.BatchNorm1d(64),
            nn.Linear(64, 16),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(nn.functional.dropout(self.act(self.norm(self.first(x))), 0.1))

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(x)


class Net(nn.Module):
    block: Callable[[], nn.Module] = Block

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(self.block() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x.square().mean()


def trained(model: nn.Module) -> Record:
    seed_generators(3, CPU)
    return train(model, (X,))


def assert_same(expected: Record, got: Record) -> None:
    assert differing(expected, got) == []


def optimized(model: nn.Module, budget: str = "80%", **options: Any) -> nn.Module:
    autockpt.optimize(model, budget, optimizer="adamw", method="greedy", **options)
    return model


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("plans-v*/*.json"))


def forbidden(*_: Any, **__: Any) -> Any:
    raise AssertionError("it was planned anew")


@pytest.fixture
def no_planning(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forbids capturing, profiling and solving from the call on."""

    def forbid() -> None:
        monkeypatch.setattr(graphs, "capture", forbidden)
        monkeypatch.setattr(graphs, "profile", forbidden)
        monkeypatch.setattr(problem, "solve", forbidden)

    return forbid


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
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SCRIPT)],
            env=os.environ, capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
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


class OtherBlock(Block):
    def act(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.silu(x)


class Other(Net):
    block = OtherBlock


# What another process sees after the code of a class was edited.
OtherBlock.__qualname__ = OtherBlock.__name__ = Block.__name__
Other.__qualname__ = Other.__name__ = Net.__name__


def test_a_plan_of_other_graphs_never_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a kept plan only finds it; the graphs decide whether it runs."""
    monkeypatch.setattr(maker, "identity", lambda *_, **__: "same")
    trained(optimized(Net()))
    expected = trained(Other())
    model = optimized(Other())
    assert_same(expected, trained(model))
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert plan.rung == "whole"
    assert "kept since" not in str(plan.notes)


@pytest.mark.parametrize(
    "change",
    [
        lambda: optimized(Other()),
        lambda: optimized(Net(), "85%"),
        lambda: optimized(Net().double()),
        lambda: optimized(Net(), loss_fn=lambda loss: loss * 2),
    ],
    ids=["code", "budget", "dtype", "loss"],
)
def test_what_a_plan_depends_on_is_in_its_name(
    folder: Path, change: Callable[[], nn.Module]
) -> None:
    trained(optimized(Net()))
    model = change()
    dtype = next(model.parameters()).dtype
    model(X.to(dtype)).backward()
    assert len(files(folder)) == 2


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
    monkeypatch.setattr(graphs, "capture", _fails)
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


def _fails(*_: Any, **__: Any) -> Any:
    raise autockpt.CaptureError(where="Net", reason="it cannot be traced")


CHOICES = """
    from autockpt.dispatch.identity import _code
    def f(mode):
        return mode in {"mean", "sum", "none", "max"}
    print(_code(f))
"""


def test_the_name_is_the_same_in_every_process() -> None:
    """Sets of texts have another order in each."""
    names = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(CHOICES)],
            env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in "123"
    }  # fmt: skip
    assert len(names) == 1


def test_the_name_does_not_depend_on_where_code_stands() -> None:
    def function(text: str) -> Any:
        namespace: dict[str, Any] = {}
        exec(text, namespace)  # noqa: S102
        return namespace["f"]

    text = "def f(x):\n    return [y * 2 for y in x]\n"
    assert _code(function(text)) == _code(function("\n\n# moved\n" + text))
    assert _code(function(text)) != _code(function(text.replace("2", "3")))


def test_a_loss_that_cannot_be_told_from_others_keeps_no_plan(folder: Path) -> None:
    def loss(y: Any) -> torch.Tensor:
        return y if isinstance(y, torch.Tensor) else sum(loss(part) for part in y)

    model = optimized(Net(), loss_fn=loss)
    model(X).backward()
    assert autockpt.get_plan(model) is not None
    assert files(folder) == []


class Helped(nn.Module):
    """Its forward calls a function that is looked up when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 16)
        self.register_buffer("seen", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(helper["use"](self, nn.functional.gelu(self.first(x))))


class Helping(Net):
    block = Helped


def reads(block: Any, x: torch.Tensor) -> torch.Tensor:
    return x * block.seen


def writes(block: Any, x: torch.Tensor) -> torch.Tensor:
    return x * block.seen.add_(1)


helper: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {"use": reads}


def test_calls_that_do_something_else_now_are_not_recomputed_by_a_kept_plan(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code that a class leads to is not in a plan's name, and no graph tells."""
    monkeypatch.setattr(graphs, "capture", _fails)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained(optimized(Helping()))
        assert len(files(folder)) == 1
        monkeypatch.setitem(helper, "use", writes)
        assert_same(trained(Helping()), trained(optimized(Helping())))


class Breaking(Net):
    """Whether its forward is one graph depends on something that is not the model's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        if breaks["now"]:
            x = x * 1.5 if float(x.detach().sum()) > 1e9 else x
        return x.square().mean()


breaks = {"now": False}


def test_nothing_runs_twice_if_the_forward_has_more_graphs_now(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first graph was the plan's and ran; the second was not, and all of it ran again."""
    trained(optimized(Breaking()))
    monkeypatch.setitem(breaks, "now", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(trained(Breaking()), trained(optimized(Breaking())))


class Scaled(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factor = 1.0 if torch.compiler.is_compiling() else scale["now"]
        return super().forward(x) * (factor * given["now"])


scale, given = {"now": 1.0}, {"now": 1.0}


def test_bits_were_verified_for_the_numbers_in_a_graph_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(optimized(Scaled()))
    monkeypatch.setitem(given, "now", 0.5)
    monkeypatch.setitem(scale, "now", 2.0)
    with pytest.warns(UserWarning, match="not bit-equal"):
        got = trained(optimized(Scaled()))
    assert_same(trained(Scaled()), got)


def test_a_copy_of_a_model_that_was_not_called_yet_tries_its_plan_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maker, "identity", lambda *_, **__: "same")
    trained(optimized(Net()))
    model = optimized(Other(), sample_args=(X,))
    twin = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert_same(trained(Other()), trained(twin))


def helped_loss(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def helper_of_the_loss(x: torch.Tensor) -> torch.Tensor:
        return x * factor

    return lambda loss: helper_of_the_loss(loss)


def test_what_a_loss_calls_is_in_the_name(folder: Path) -> None:
    for factor in (1.0, 2.0, 2.0):
        optimized(Net(), loss_fn=helped_loss(factor))(X).backward()
    assert len(files(folder)) == 2
