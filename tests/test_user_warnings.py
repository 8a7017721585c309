"""Warnings point at the user's line, at any depth."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import autockpt
from autockpt import user_warnings


class Reading(nn.Module):
    """Its code reads a value, so that it falls back, which is warned of."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).sum() * float(x.sum() > -1e9)


def _line() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def test_a_warning_names_the_line_that_calls_the_model_or_optimize() -> None:
    x = torch.randn(4, 8)
    options = {"optimizer": "sgd", "time_limit_s": 1.0}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        autockpt.optimize(Reading(), "100%", sample_args=(x,), **options)
        given = _line() - 1
        wrapped = nn.Sequential(autockpt.optimize(Reading(), "100%", **options))
        wrapped(x)
        called = _line() - 1
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, given), (__file__, called)]
    assert all("falls back to the rung" in str(w.message) for w in caught)


@pytest.fixture
def package() -> dict[str, Any]:
    """Code that is part of autockpt as far as warnings are concerned."""
    code = """
import contextlib
from autockpt.user_warnings import warn_user

@contextlib.contextmanager
def entered():
    warn_user("in a context")
    yield

def calls(function):
    return function()

def warns():
    warn_user("from below")
"""
    namespace: dict[str, Any] = {"__name__": "autockpt.below"}
    exec(code, namespace)  # noqa: S102
    return namespace


def test_contexts_and_callbacks_are_seen_through(package: dict[str, Any]) -> None:
    def user() -> int:
        package["warns"]()
        return _line() - 1

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with package["entered"]():
            entered = _line() - 1
        called = package["calls"](user)
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, entered), (__file__, called)]


def test_filters_and_errors_work_as_with_any_warning() -> None:
    with pytest.raises(UserWarning, match="an error here"):
        user_warnings.warn_user("an error here")
    with warnings.catch_warnings(), contextlib.suppress(UserWarning):
        warnings.filterwarnings("ignore", message="an error here")
        user_warnings.warn_user("an error here")
