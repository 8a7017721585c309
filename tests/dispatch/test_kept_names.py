"""What a kept plan is found by: equal in every process, and another one if the plan would be."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kept_models import Net, Other, X, files, optimized, trained
from torch import nn

import autockpt
from autockpt.dispatch.identity import _code


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


def test_the_name_is_the_same_in_every_process() -> None:
    """Sets of texts have another order in each, as these sets of numbers have here."""

    def function(choices: frozenset[int]) -> Any:
        def f(mode: int) -> bool:
            return mode in {0, 8}

        constants = tuple(choices if isinstance(c, frozenset) else c for c in f.__code__.co_consts)
        return types.FunctionType(f.__code__.replace(co_consts=constants), {})

    one, other = frozenset([0, 8]), frozenset([8, 0])
    assert repr(one) != repr(other)
    assert _code(function(one)) == _code(function(other))
    assert _code(function(one)) != _code(function(frozenset([0, 7])))


def test_a_hash_among_the_settings_is_not_in_the_name(folder: Path) -> None:
    """transformers keeps one in `generation_config`, and no GPT-2 found its plan again."""
    for number in (-8697707728306421170, -5407665094197985565, 7):
        model = Net()
        model.settings = types.SimpleNamespace(_original_object_hash=number, size=3)
        optimized(model)(X).backward()
    assert len(files(folder)) == 2


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


def helped_loss(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def helper_of_the_loss(x: torch.Tensor) -> torch.Tensor:
        return x * factor

    return lambda loss: helper_of_the_loss(loss)


def test_what_a_loss_calls_is_in_the_name(folder: Path) -> None:
    for factor in (1.0, 2.0, 2.0):
        optimized(Net(), loss_fn=helped_loss(factor))(X).backward()
    assert len(files(folder)) == 2
