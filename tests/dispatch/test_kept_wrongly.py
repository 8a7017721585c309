"""Kept plans that no longer serve: nothing runs by them, and nothing runs twice."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kept_models import Net, Other, X, assert_same, cannot_capture, files, optimized, trained
from torch import nn

import autockpt
from autockpt.dispatch import maker
from autockpt.ladder import graphs


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
    num_blocks = 3  # with two, 80% is below the least


def reads(block: Any, x: torch.Tensor) -> torch.Tensor:
    return x * block.seen


def writes(block: Any, x: torch.Tensor) -> torch.Tensor:
    return x * block.seen.add_(1)


helper: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {"use": reads}


def test_calls_that_do_something_else_now_are_not_recomputed_by_a_kept_plan(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code that a class leads to is not in a plan's name, and no graph tells."""
    monkeypatch.setattr(graphs, "capture", cannot_capture)
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
