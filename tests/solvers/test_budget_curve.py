"""What `budget_curve` promises: every point fits, larger budgets never cost more, bounds hold."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autockpt_solvers import (
    MethodError,
    Problem,
    SolveStatus,
    baseline_schedule,
    budget_curve,
    minimum_budget,
    simulate,
    solve,
)
from tests.solvers.graphs import blocks, chain, graphs


def check(graph, curve, fixed=0):
    """Replay every point, and compare neighbours."""
    last = float("inf")
    for budget, result in zip(curve.budgets, curve.results, strict=True):
        assert result.minimum_peak_bytes == fixed + curve.minimum.peak_bytes
        if result.schedule is None:
            assert last == float("inf"), "a smaller budget has a plan"
            assert result.status is not SolveStatus.OPTIMAL
            continue
        timeline = simulate(graph, result.schedule)
        assert timeline.peak_bytes + fixed == result.peak_bytes <= budget
        assert timeline.recompute_ns == result.recompute_ns <= last
        assert 0 <= result.lower_bound_ns <= result.recompute_ns
        is_proven = result.lower_bound_ns == result.recompute_ns
        assert is_proven == (result.status is SolveStatus.OPTIMAL)
        last = result.recompute_ns


@settings(max_examples=25)
@given(graph=graphs(max_forward=7, max_backward=6), data=st.data())
def test_larger_budgets_never_cost_more_and_bounds_hold(graph, data):
    """Also below the smallest budget, and on graphs without a backward pass."""
    method = data.draw(st.sampled_from(["auto", "greedy", "mincut", "none", "full"]))
    fixed = data.draw(st.integers(0, 30))
    top = graph.most_bytes + fixed
    budgets = data.draw(st.lists(st.integers(0, top), min_size=1, max_size=6))
    curve = budget_curve(
        graph, budgets, fixed_bytes=fixed, method=method, simple=(), time_limit_s=2
    )
    assert curve.budgets == tuple(sorted(set(budgets)))
    check(graph, curve, fixed)
    free = simulate(graph, baseline_schedule(graph)).peak_bytes + fixed
    costs = {r.recompute_ns for b, r in zip(curve.budgets, curve.results, strict=True) if b >= free}
    assert costs <= {0}


@pytest.mark.parametrize(
    ("graph", "method"), [(chain(4), "auto"), (blocks(6), "mincut"), (blocks(6), "greedy")]
)
def test_the_points_are_about_as_cheap_as_solve_finds_them_alone(graph, method):
    """A curve shares one search, but must not be a worse one for that."""
    curve = budget_curve(graph, 3 if method == "auto" else 6, method=method)
    check(graph, curve)
    least = minimum_budget(graph, method=method)
    assert curve.minimum.lower_bound_bytes <= least.peak_bytes
    if method == "auto":
        assert curve.minimum == least
    for budget, result in zip(curve.budgets, curve.results, strict=True):
        alone = solve(Problem(graph=graph, budget_bytes=budget), method=method)
        assert result.lower_bound_ns <= alone.recompute_ns
        if alone.schedule is not None:
            assert result.recompute_ns <= 1.1 * alone.recompute_ns
    assert curve.results[-1].recompute_ns == 0


def test_budgets_are_chosen_from_the_smallest_to_the_largest():
    graph = chain(8)
    free = simulate(graph, baseline_schedule(graph)).peak_bytes
    curve = budget_curve(graph, 5, fixed_bytes=100, most_bytes=free + 150, method="greedy")
    assert len(curve.budgets) == 5
    assert curve.budgets[0] == 100 + curve.minimum.peak_bytes
    assert curve.budgets[-1] == free + 150
    steps = [b - a for a, b in itertools.pairwise(curve.budgets)]
    assert steps == sorted(steps), "points are closer together near the smallest budget"
    assert budget_curve(graph, 1, method="greedy").budgets == (curve.minimum.peak_bytes,)


def test_simple_methods_stand_beside_and_never_beat_the_bound():
    graph = chain(12, size=20)
    names = ("sqrt", "uniform", "greedy")
    curve = budget_curve(graph, 8, method="mincut", simple=names, fixed_bytes=7)
    assert {plan.method for plan in curve.simple} == set(names)
    for plan in curve.simple:
        for budget, result in zip(curve.budgets, curve.results, strict=True):
            if plan.peak_bytes <= budget:
                assert plan.recompute_ns >= result.lower_bound_ns


def test_a_callable_may_find_plans_for_some_budgets_only():
    graph = chain(16)
    free = simulate(graph, baseline_schedule(graph)).peak_bytes
    sqrt = budget_curve(graph, [free], simple=("sqrt",)).simple[0].peak_bytes

    def mine(problem, *, time_limit_s, seed):
        return solve(problem, method="sqrt").schedule

    curve = budget_curve(graph, [1, sqrt, free], method=mine, simple=())
    assert [r.schedule is None for r in curve.results] == [True, False, False]
    assert [r.method for r in curve.results[1:]] == ["mine", "none"]
    check(graph, curve)

    def broken(problem, *, time_limit_s, seed):
        raise KeyError("no")

    with pytest.raises(MethodError, match="'broken' raised KeyError"):
        budget_curve(graph, 3, method=broken)


def test_wrong_arguments_are_refused_before_any_search():
    graph = chain(3)
    with pytest.raises(ValueError, match="budgets is 0; it must be 1 or more"):
        budget_curve(graph, 0)
    with pytest.raises(ValueError, match="budgets is empty"):
        budget_curve(graph, [])
    with pytest.raises(TypeError, match=r"budget_bytes is 1\.5, a float"):
        budget_curve(graph, [1.5])
    with pytest.raises(ValueError, match="unknown method 'magic'"):
        budget_curve(graph, 3, simple=("magic",))
    with pytest.raises(ValueError, match="time_limit_s is 0"):
        budget_curve(graph, 3, time_limit_s=0)


def test_the_repr_of_a_curve_is_a_line() -> None:
    curve = budget_curve(chain(6), 3)
    assert repr(curve).startswith("<BudgetCurve: 3 budgets from ")
    assert len(repr(curve)) < 160
