"""One time limit for all solves of a planning, and what is told when it is over."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import autockpt
from autockpt.lower.solving_time import SolvingTime
from autockpt_solvers import Result, SolveStatus


def test_all_solves_together_keep_to_the_limit() -> None:
    """Each rung, each correction and each search for the minimum had the whole limit anew."""
    solving = SolvingTime()
    for _ in range(20):
        solving.spend(solving.for_a_solve(60.0))
        solving.spend(solving.for_a_minimum(60.0))
        if solving.for_a_solve(60.0) == 0.5:
            break
    assert solving.spent_s <= 61.0
    assert solving.for_a_solve(60.0) == 0.5  # a solve that is asked late still answers


def test_a_limit_shorter_than_the_least_is_kept() -> None:
    assert SolvingTime().for_a_solve(0.1) == 0.1


class _Solver:
    """Records the time limits that the engine is asked with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from autockpt.lower import problem

        self.limits: list[float | None] = []
        for name in ("solve", "minimum_budget", "judge"):
            monkeypatch.setattr(problem, name, self._recorded(getattr(problem, name)))

    def _recorded(self, function):  # type: ignore[no-untyped-def]
        def recorded(*args, **kwargs):  # type: ignore[no-untyped-def]
            self.limits.append(kwargs.get("time_limit_s"))
            return function(*args, **kwargs)

        return recorded


def _model() -> torch.nn.Sequential:
    layers = [m for _ in range(4) for m in (torch.nn.Linear(32, 32), torch.nn.Tanh())]
    return torch.nn.Sequential(*layers)


def test_a_budget_below_the_bound_is_refused_after_a_short_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A budget of one kilobyte took 41 s on a tiny BERT, as long as planning."""
    solver = _Solver(monkeypatch)
    with pytest.raises(autockpt.BudgetError) as caught:
        autockpt.optimize(_model(), "1kB", sample_args=(torch.randn(64, 32),))
    error = caught.value
    assert error.is_proven
    assert error.status is SolveStatus.INFEASIBLE
    assert error.budget_bytes < error.lower_bound_bytes <= error.minimum_peak_bytes
    assert "it is proven that no plan needs less than" in str(error)
    # One solve, which refuses, and a short search for the smallest budget, without a plan for it.
    limits = [limit for limit in solver.limits if limit is not None]
    assert limits.count(45.0) == 1
    assert all(limit <= 2.0 for limit in limits if limit != 45.0)


def test_running_out_of_time_is_not_told_as_too_small_a_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ResNet-50 at 40% within 20 s: "use a smaller batch", and with 60 s there was a plan."""
    from autockpt.lower import problem

    solve = problem.solve

    def out_of_time(asked, **kwargs) -> Result:  # type: ignore[no-untyped-def]
        result = solve(asked, **kwargs)
        return dataclasses.replace(result, status=SolveStatus.OUT_OF_TIME)

    monkeypatch.setattr(problem, "solve", out_of_time)
    x = torch.randn(64, 32)
    with pytest.raises(autockpt.BudgetError) as caught:
        autockpt.plan(_model(), "1kB", sample_args=(x,), method="none")
    assert caught.value.status is SolveStatus.OUT_OF_TIME
    text = str(caught.value)
    assert text.startswith("autockpt ran out of time and found no plan for budget 1000 B within")
    assert "time_limit_s=60; there may be one" in text
    assert "Raise time_limit_s, or raise budget to" in text
