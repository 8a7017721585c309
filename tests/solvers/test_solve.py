"""Laws that hold for every method on every graph."""

from __future__ import annotations

import importlib
import math
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import autockpt_solvers
from autockpt_solvers import (
    Attempt,
    Method,
    MethodError,
    Problem,
    Schedule,
    ScheduleError,
    SolveStatus,
    StopSearch,
    baseline_schedule,
    judge,
    method_names,
    minimum_budget,
    simulate,
    solve,
    with_frees,
)
from autockpt_solvers.bounds.least import least_peak_bytes
from autockpt_solvers.bounds.peak import lower_bound_bytes
from autockpt_solvers.orders.facts import GraphFacts
from tests.solvers.graphs import Builder, blocks, chain, graphs

pytestmark = pytest.mark.usefixtures("short_searches")

NAMES = method_names()


def baseline_peak(graph):
    return simulate(graph, with_frees(graph, GraphFacts(graph).baseline())).peak_bytes


def check(problem, result):
    """What must hold of any result."""
    assert result.lower_bound_ns >= 0
    if result.schedule is None:
        assert result.schedule is None
        assert result.minimum_peak_bytes > problem.budget_bytes
        return
    timeline = simulate(problem.graph, result.schedule)
    assert result.peak_bytes == timeline.peak_bytes + problem.fixed_bytes <= problem.budget_bytes
    assert result.recompute_ns == timeline.recompute_ns >= result.lower_bound_ns
    assert result.minimum_peak_bytes <= result.peak_bytes
    assert 0 <= result.gap <= 1


def test_every_method_has_a_page() -> None:
    docs = Path(__file__).parents[2] / "docs"
    pages = {page.stem for page in (docs / "methods").glob("*.md")}
    assert pages == {*NAMES, "callable"}
    contents = (docs / "methods.md").read_text(encoding="utf-8").splitlines()
    assert pages <= {line.removeprefix("methods/") for line in contents}


@pytest.mark.parametrize("method", NAMES)
@given(graph=graphs(), share=st.floats(0.3, 1.1), fixed=st.integers(0, 5))
def test_every_answer_runs_and_fits(method, graph, share, fixed):
    budget = int(baseline_peak(graph) * share) + fixed
    problem = Problem(graph=graph, budget_bytes=budget, fixed_bytes=fixed)
    check(problem, solve(problem, method=method, time_limit_s=20))


@pytest.mark.parametrize("method", NAMES)
@given(graph=graphs())
def test_with_the_baseline_peak_nothing_is_recomputed(method, graph):
    result = solve(Problem(graph=graph, budget_bytes=baseline_peak(graph)), method=method)
    assert result.status is SolveStatus.OPTIMAL
    assert (result.recompute_ns, result.gap) == (0, 0.0)


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("graph", [chain(9), blocks(4)], ids=["chain", "blocks"])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_every_method_on_every_graph(method, graph, share):
    problem = Problem(graph=graph, budget_bytes=int(baseline_peak(graph) * share))
    check(problem, solve(problem, method=method, time_limit_s=20))


@pytest.mark.parametrize("method", NAMES)
def test_equal_problems_give_equal_schedules(method):
    problem = Problem(graph=blocks(4), budget_bytes=int(baseline_peak(blocks(4)) * 0.6))
    first, second = (solve(problem, method=method, seed=3) for _ in range(2))
    assert first.schedule == second.schedule


def test_a_callable_is_a_method():
    graph = chain(4)

    def keep_all(problem, *, time_limit_s, seed):
        return with_frees(problem.graph, range(len(problem.graph.ops)))

    result = solve(Problem(graph=graph, budget_bytes=30), method=keep_all)
    assert result.method == "keep_all"
    assert result.status is SolveStatus.INFEASIBLE
    assert result.minimum_peak_bytes == baseline_peak(graph)


def test_a_callable_may_offer_several_orders_and_a_bound():
    """Neither `Attempt`, which errors speak of, nor `Method` could be imported."""
    graph = chain(12)
    again = minimum_budget(graph, method="uniform").schedule.compute_order
    timeline = simulate(graph, with_frees(graph, again))

    def mine(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
        orders = (range(len(graph.ops)), again)
        bound = timeline.recompute_ns
        return Attempt(orders=orders, lower_bound_ns=bound, bound_class="plans of mine")

    method: Method = mine
    result = solve(Problem(graph=graph, budget_bytes=timeline.peak_bytes), method=method)
    assert result.schedule.compute_order == again
    assert result.recompute_ns == result.lower_bound_ns == timeline.recompute_ns > 0
    assert (result.status, result.bound_class) == (SolveStatus.OPTIMAL, "plans of mine")


def test_a_callable_that_finds_nothing_leaves_the_baseline_as_minimum():
    graph = chain(4)
    result = solve(Problem(graph=graph, budget_bytes=3), method=lambda *_, **__: None)
    assert result.status is SolveStatus.INFEASIBLE
    assert result.minimum_peak_bytes == baseline_peak(graph)


def test_a_callable_that_raises_is_named():
    def broken(problem, *, time_limit_s, seed):
        raise KeyError("weights")

    with pytest.raises(MethodError, match="method 'broken' raised KeyError: 'weights'") as caught:
        solve(Problem(graph=chain(4), budget_bytes=3), method=broken)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(MethodError, match="method 'broken' raised"):
        minimum_budget(chain(4), method=broken)


def test_a_callable_that_returns_something_else_is_told_what_to_return():
    def ordered(problem, *, time_limit_s, seed):
        return list(range(len(problem.graph.ops)))

    with pytest.raises(MethodError, match="'ordered' returned list; it must return a Schedule"):
        solve(Problem(graph=chain(4), budget_bytes=3), method=ordered)


def test_a_callable_with_the_name_of_a_method_is_no_such_method():
    def ilp(problem, *, time_limit_s, seed):
        raise KeyError("mine")

    with pytest.raises(MethodError, match="'ilp' raised"):
        solve(Problem(graph=chain(4), budget_bytes=3), method=ilp)


def test_a_callable_that_gives_a_wrong_schedule_is_refused():
    wrong = Schedule(steps=with_frees(chain(4), range(len(chain(4).ops))).steps[1:])
    with pytest.raises(ScheduleError, match="not live"):
        solve(Problem(graph=chain(4), budget_bytes=3), method=lambda *_, **__: wrong)


def test_an_unknown_method_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown method 'best'; use one of 'auto', 'none'"):
        solve(Problem(graph=chain(2), budget_bytes=1), method="best")


@pytest.mark.parametrize("time_limit_s", [0, float("inf"), float("nan")])
def test_a_time_limit_of_nothing_or_without_end_is_refused(time_limit_s):
    with pytest.raises(ValueError, match=rf"time_limit_s is {time_limit_s}; it must be above 0"):
        solve(Problem(graph=chain(2), budget_bytes=1), time_limit_s=time_limit_s)


@given(graphs())
def test_the_minimum_budget_is_reached_and_not_below_its_bound(graph):
    found = minimum_budget(graph, time_limit_s=20)
    assert simulate(graph, found.schedule).peak_bytes <= found.peak_bytes
    assert found.lower_bound_bytes <= found.peak_bytes <= baseline_peak(graph)


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("num_ops", [0, 1])
def test_a_graph_that_needs_nothing_has_a_minimum_budget(method, num_ops):
    """`greedy`, `exact` and `intervals` divided by the number of ops that must run."""
    b = Builder()
    for _ in range(num_ops):
        b.add("not needed", sizes=(5,))
    found = minimum_budget(b.graph(), method=method)
    assert (found.peak_bytes, found.lower_bound_bytes, found.schedule.steps) == (0, 0, ())


@pytest.mark.parametrize("name", ["api", "simulator", "methods", "schedule", "search", "session"])
def test_every_module_and_every_public_name_can_be_imported(name):
    """The functions `solve`, `simulate` and `methods` hid the modules of those names."""
    module = importlib.import_module(f"autockpt_solvers.{name}")
    assert isinstance(module, types.ModuleType)
    assert getattr(autockpt_solvers, name) is module
    for public in autockpt_solvers.__all__:
        assert not isinstance(getattr(autockpt_solvers, public), types.ModuleType)


@given(graph=graphs(), share=st.floats(0.3, 1.1), fixed=st.integers(0, 5))
def test_a_schedule_is_judged_as_if_a_method_had_found_it(graph, share, fixed):
    budget = int(baseline_peak(graph) * share) + fixed
    problem = Problem(graph=graph, budget_bytes=budget, fixed_bytes=fixed)
    schedule = with_frees(graph, GraphFacts(graph).just_in_time(()))
    judged = judge(problem, schedule)
    check(problem, judged)
    solved = solve(problem, method=lambda *_, **__: schedule)
    if solved.schedule == judged.schedule:
        for field in ("status", "recompute_ns", "peak_bytes", "lower_bound_ns", "bound_class"):
            assert getattr(judged, field) == getattr(solved, field)
    else:  # nothing was recomputed, so the method was not asked
        assert solved.recompute_ns == 0


def test_a_schedule_that_does_not_fit_is_infeasible_with_its_peak():
    graph = chain(6)
    judged = judge(Problem(graph=graph, budget_bytes=3), baseline_schedule(graph))
    assert (judged.status, judged.schedule) == (SolveStatus.INFEASIBLE, None)
    assert judged.peak_bytes == judged.minimum_peak_bytes == baseline_peak(graph)
    with pytest.raises(ScheduleError):
        judge(Problem(graph=graph, budget_bytes=3), Schedule(steps=()))


@pytest.mark.parametrize("method", NAMES)
@given(graph=graphs())
def test_without_a_budget_nothing_is_recomputed(method, graph):
    problem = Problem(graph=graph, budget_bytes=None, fixed_bytes=7)
    result = solve(problem, method=method)
    assert (result.status, result.recompute_ns) == (SolveStatus.OPTIMAL, 0)
    assert result.peak_bytes == baseline_peak(graph) + 7
    recomputing = judge(problem, with_frees(graph, GraphFacts(graph).just_in_time(())))
    assert recomputing.status is not SolveStatus.INFEASIBLE
    assert recomputing.lower_bound_ns == 0


@pytest.mark.parametrize(
    "garbage",
    [
        Attempt(orders=((0, 99),)),
        Attempt(orders=(("a",),)),
        Attempt(orders=(None,)),
        Attempt(orders=5),
        Attempt(orders=((0, 1.0),)),
        Attempt(orders=(), lower_bound_ns="many"),
        Attempt(orders=(), bound_class=3),
        Attempt(orders=(), others=("x",)),
        Schedule(steps=(1, 2)),
        Schedule(steps=None),
    ],
)
def test_a_callable_that_returns_garbage_is_named(garbage):
    """What was wrong inside of an answer came out as an IndexError of the engine's own code."""

    def mine(problem, *, time_limit_s, seed):
        return garbage

    with pytest.raises((MethodError, ScheduleError)) as caught:
        solve(Problem(graph=chain(4), budget_bytes=3), method=mine)
    if isinstance(caught.value, MethodError):
        assert "method 'mine' returned a damaged" in str(caught.value)


@pytest.mark.parametrize("limit", ["5", None, True, object()])
def test_a_time_limit_that_is_no_number_is_refused(limit):
    graph = chain(2)
    problem = Problem(graph=graph, budget_bytes=3)
    for ask in (
        lambda: solve(problem, time_limit_s=limit),
        lambda: minimum_budget(graph, time_limit_s=limit),
        lambda: judge(problem, baseline_schedule(graph), time_limit_s=limit),
    ):
        with pytest.raises(TypeError, match="it must be a number of seconds"):
            ask()


@pytest.mark.parametrize("limit", [0, -1, math.inf, math.nan])
def test_a_time_limit_that_is_not_positive_is_refused_everywhere(limit):
    """`minimum_budget` and `judge` took any."""
    graph = chain(2)
    for ask in (
        lambda: minimum_budget(graph, time_limit_s=limit),
        lambda: judge(
            Problem(graph=graph, budget_bytes=3), baseline_schedule(graph), time_limit_s=limit
        ),
    ):
        with pytest.raises(ValueError, match="it must be above 0, and finite"):
            ask()


def test_a_seed_that_cannot_be_one_is_refused():
    """CP-SAT and numpy raised their own errors, deep in a search."""
    problem = Problem(graph=chain(2), budget_bytes=3)
    for seed in (-1, 2**31):
        with pytest.raises(ValueError, match=r"seed is .*; it must be from 0 to 2147483647"):
            solve(problem, seed=seed)
    for seed in (1.5, "1", None):
        with pytest.raises(TypeError, match="seed is"):
            minimum_budget(chain(2), seed=seed)


def test_three_reasons_why_no_plan_fits_are_told_apart():
    """A search that had run out of time was told as infeasible."""
    graph = blocks(6)
    least = lower_bound_bytes(graph)
    below = solve(Problem(graph=graph, budget_bytes=least - 1), time_limit_s=60)
    assert below.status is SolveStatus.INFEASIBLE
    assert below.lower_bound_bytes > least - 1

    def stop(report):
        raise StopSearch

    lowest = least_peak_bytes(graph)
    out_of_time = solve(Problem(graph=graph, budget_bytes=lowest), watch=stop)
    assert out_of_time.status is SolveStatus.OUT_OF_TIME
    assert least < out_of_time.lower_bound_bytes <= lowest < out_of_time.minimum_peak_bytes
    by_itself = solve(Problem(graph=graph, budget_bytes=lowest), method="greedy")
    assert by_itself.status is SolveStatus.NOT_FOUND
    for result in (below, out_of_time, by_itself):
        assert result.schedule is None


def test_a_budget_below_the_bound_is_refused_without_a_search(monkeypatch):
    """A budget of one kilobyte took as long as planning."""
    asked = []
    monkeypatch.setattr(
        "autockpt_solvers.search.ask.solve_by_levels", lambda *_, **__: asked.append(1)
    )
    graph = blocks(6)
    result = solve(Problem(graph=graph, budget_bytes=lower_bound_bytes(graph) - 1))
    assert (result.status, asked) == (SolveStatus.INFEASIBLE, [])
    assert result.minimum_peak_bytes <= baseline_peak(graph)
