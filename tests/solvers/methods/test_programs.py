"""`exact` and `intervals`: optimal within their class, and honest about what that is."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortools.sat.python import cp_model

from autockpt_solvers import (
    Problem,
    ScheduleError,
    SolveStatus,
    minimum_budget,
    simulate,
    solve,
    with_frees,
)
from autockpt_solvers.attempt import EVERY_PLAN
from autockpt_solvers.bounds.peak import lower_bound_bytes
from autockpt_solvers.bounds.proof import IN_ORDER_CLASS as FORWARD_AT_WILL
from autockpt_solvers.methods.any_order.intervals import solve_intervals
from autockpt_solvers.methods.any_order.staged import StagedGraph
from autockpt_solvers.methods.reference.exact import solve_exact
from autockpt_solvers.orders.facts import GraphFacts
from autockpt_solvers.session import Session
from tests.solvers.brute import least_recompute
from tests.solvers.graphs import Builder, blocks, chain, graphs

METHODS = ("exact", "intervals")
SMALL = graphs(max_forward=4, max_backward=3, max_sizes=2)


def plans(graph, most):
    """Peak and recompute time of every plan in stages that runs no op more than `most` times."""
    staged = StagedGraph(GraphFacts(graph))
    choices = [
        [c for n in range(most) for c in itertools.combinations(stages, n)]
        for stages in staged.again
    ]
    for chosen in itertools.product(*choices):
        again = [(t, k) for k, stages in enumerate(chosen) for t in stages]
        try:
            timeline = simulate(graph, with_frees(graph, staged.compute_order(again)))
        except ScheduleError as error:
            # A value may be made anew while its op has another one to be kept.
            raise AssertionError(again) from error
        yield timeline.peak_bytes, timeline.recompute_ns


@pytest.mark.parametrize(("method", "most"), [("exact", 9), ("intervals", 2)])
@settings(max_examples=60)
@given(graph=SMALL, share=st.floats(0.0, 1.0))
def test_no_plan_of_the_class_is_better(method, most, graph, share):
    staged = StagedGraph(GraphFacts(graph))
    if sum(len(stages) for stages in staged.again) > 12:
        return
    peak = simulate(graph, with_frees(graph, GraphFacts(graph).baseline())).peak_bytes
    least = lower_bound_bytes(graph)
    room = least + int((peak - least) * share)
    result = solve(Problem(graph=graph, budget_bytes=room), method=method, time_limit_s=20)
    every = list(plans(graph, most))
    fitting = [cost for peak, cost in every if peak <= room]
    if fitting:
        assert result.status is SolveStatus.OPTIMAL or result.recompute_ns < min(fitting)
        assert result.recompute_ns <= min(fitting)
        assert result.lower_bound_ns <= min(fitting)
    elif result.schedule is None:
        assert result.minimum_peak_bytes <= min(peak for peak, _ in every)
        assert room < result.lower_bound_bytes <= min(peak for peak, _ in every)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25)
@given(graph=SMALL, share=st.floats(0.0, 1.0))
def test_they_stay_above_an_exhaustive_search(method, graph, share):
    room = int(share * sum(s.size_bytes for s in graph.storages))
    least = least_recompute(graph, room)
    result = solve(Problem(graph=graph, budget_bytes=room), method=method, time_limit_s=20)
    if least is not None and result.bound_class == FORWARD_AT_WILL:
        # Backward ops may run again in these methods' plans, and not in the search's.
        assert result.lower_bound_ns <= least


@pytest.mark.parametrize("method", METHODS)
def test_a_proof_names_its_class(method):
    graph = chain(6)
    result = solve(Problem(graph=graph, budget_bytes=51), method=method, time_limit_s=30)
    assert result.status is SolveStatus.OPTIMAL
    assert result.lower_bound_ns == result.recompute_ns > 0
    assert result.bound_class != FORWARD_AT_WILL
    tight = solve(Problem(graph=graph, budget_bytes=30), method=method, time_limit_s=30)
    assert tight.status is SolveStatus.INFEASIBLE
    assert tight.lower_bound_bytes > 30


def test_backward_ops_run_again_where_that_pays():
    # `wide` waits for a reader at the end; making it again is cheaper than any forward op.
    b = Builder()
    x = b.add("x", sizes=(4,), time=50)
    b.add("out", [x], output=True)
    wide = b.add("wide", [x], sizes=(20,), time=1, is_backward=True)
    small = b.add("small", [wide], sizes=(2,), time=9, is_backward=True)
    large = b.add("large", [small], sizes=(20,), time=9, is_backward=True)
    less = b.add("less", [large], sizes=(2,), time=9, is_backward=True)
    b.add("end", [wide, less, x], sizes=(2,), time=9, is_backward=True, output=True)
    problem = Problem(graph=b.graph(), budget_bytes=30)
    for method in METHODS:
        assert solve(problem, method=method, time_limit_s=20).recompute_ns == 1
    assert solve(problem, method="ilp", time_limit_s=5).status is SolveStatus.INFEASIBLE


def waiting():
    """A wide backward value waits for the end while another backward op needs much room."""
    b = Builder()
    a = b.add("a", output=True)
    wide = b.add("wide", [a], sizes=(500,), time=5, is_backward=True)
    small = b.add("small", [wide], is_backward=True)
    roomy = b.add("roomy", [small], workspace_bytes=1000, is_backward=True)
    b.add("end", [wide, roomy], output=True, is_backward=True)
    return b.graph()


@pytest.mark.parametrize("method", METHODS)
def test_the_minimum_budget_counts_on_running_backward_ops_again(method):
    """They were asked at what plans that run backward ops once need, and answered with 1503."""
    found = minimum_budget(waiting(), method=method)
    assert found.peak_bytes == simulate(waiting(), found.schedule).peak_bytes == 1003
    # Proven for the class of the program, as the other plans need 1503.
    assert found.lower_bound_bytes == 1003
    assert found.bound_class != FORWARD_AT_WILL
    problem = Problem(graph=waiting(), budget_bytes=found.peak_bytes - 1)
    assert solve(problem, method=method).status is SolveStatus.INFEASIBLE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("room", [1003, 1502])
def test_a_bound_on_bytes_is_of_the_class_that_is_reported(method, room):
    """The plan of 1003 bytes was called optimal beside a bound of 1503 bytes for other plans."""
    result = solve(Problem(graph=waiting(), budget_bytes=room), method=method)
    assert result.status is SolveStatus.OPTIMAL
    assert result.bound_class not in (FORWARD_AT_WILL, EVERY_PLAN)
    assert result.lower_bound_bytes <= result.peak_bytes <= room


def test_what_runs_backward_ops_again_is_not_measured_by_plans_that_do_not():
    """No plan that runs them once fits, so its bound was above any cost, and all was optimal."""
    order = [0, 1, 2, 3, 1, 4]
    problem = Problem(graph=waiting(), budget_bytes=1003)
    result = solve(problem, method=lambda problem, **_: with_frees(problem.graph, order))
    assert result.recompute_ns == 5
    assert result.status is SolveStatus.FEASIBLE
    assert result.bound_class == EVERY_PLAN
    assert result.lower_bound_bytes == 1002
    tight = Problem(graph=waiting(), budget_bytes=999)
    result = solve(tight, method=lambda problem, **_: with_frees(problem.graph, order))
    assert (result.minimum_peak_bytes, result.lower_bound_bytes) == (1003, 1002)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("failing", "proven_bytes"), [("room", 0), ("peak", 901)])
def test_only_an_infeasible_program_proves_that_nothing_fits(
    method, failing, proven_bytes, monkeypatch
):
    """Whatever was no solution was taken for a proof, so also a model that CP-SAT refuses."""
    solve_model = cp_model.CpSolver.solve

    def refuse(solver, model):
        is_first = not asked
        asked.append(model)
        if is_first == (failing == "room"):
            return cp_model.MODEL_INVALID
        return solve_model(solver, model)

    asked = []
    monkeypatch.setattr(cp_model.CpSolver, "solve", refuse)
    function = {"exact": solve_exact, "intervals": solve_intervals}[method]
    problem = Problem(graph=waiting(), budget_bytes=900)
    session = Session(graph=problem.graph, seed=0)
    attempt = function(problem, session, time_limit_s=20)
    assert (attempt.lower_bound_ns, attempt.lower_bound_bytes) == (0, proven_bytes)
    # The plans that the program would have started from are left.
    assert solve(problem, method=method).minimum_peak_bytes <= 1503


@pytest.mark.parametrize(("method", "most"), [("exact", "60000 "), ("intervals", "2000 ops")])
def test_what_is_too_large_is_refused_in_words(method, most):
    graph = chain(800)
    with pytest.raises(ValueError, match=f"method '{method}' .*{most}.*use 'ilp'"):
        solve(Problem(graph=graph, budget_bytes=4000), method=method)


@pytest.mark.parametrize("method", METHODS)
def test_a_search_cut_short_answers_with_what_it_started_from(method):
    graph = blocks(8)
    peak = simulate(graph, with_frees(graph, GraphFacts(graph).baseline())).peak_bytes
    problem = Problem(graph=graph, budget_bytes=int(peak * 0.6))
    result = solve(problem, method=method, time_limit_s=0.5)
    assert result.status is not SolveStatus.INFEASIBLE
    heuristics = [solve(problem, method=m) for m in ("greedy", "mincut", "uniform")]
    assert result.recompute_ns <= min(
        h.recompute_ns for h in heuristics if h.status is not SolveStatus.INFEASIBLE
    )
    assert result.lower_bound_ns <= result.recompute_ns
