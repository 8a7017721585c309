"""Moments bound every plan, and where their order fits, it is the best there is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autockpt_solvers import Problem, SolveStatus, read_instance, simulate, solve, with_frees
from autockpt_solvers.bounds import moments as bound_moments
from autockpt_solvers.bounds.moments import bytes_at_first_run, order_of, solve_relaxations
from autockpt_solvers.bounds.proof import MOVED_CLASS
from autockpt_solvers.bounds.recomputation import any_plan_bound_ns
from autockpt_solvers.bounds.relaxation import Ancestry, Relaxation
from autockpt_solvers.methods.any_order import moments
from autockpt_solvers.orders.facts import GraphFacts
from tests.solvers.brute import least_recompute
from tests.solvers.graphs import Builder, blocks, chain, graphs

FREE = graphs(max_forward=7, max_backward=0, max_regions=1)
ANY = graphs(max_forward=5, max_backward=4, max_regions=1)


def baseline_peak(graph):
    return simulate(graph, with_frees(graph, GraphFacts(graph).baseline())).peak_bytes


def published(depth, width=40, skip=True):
    """A training graph in the plain form: the backward reads both sides of every forward op."""
    sizes = [width * 4 // (1 + k) + 1 for k in range(depth)]
    ops = [
        {"name": f"f{k}", "duration": 7 + 5 * (k % 3), "output_bytes": size}
        for k, size in enumerate(sizes)
    ]
    edges = [[k, k + 1] for k in range(depth - 1)]
    edges += [[k, k + 3] for k in range(0, depth - 3, 4)] if skip else []
    ops.append({"name": "loss", "duration": 1, "output_bytes": 1})
    edges.append([depth - 1, depth])
    for k in reversed(range(depth)):
        here = len(ops)
        ops.append({"name": f"b{k}", "duration": 20, "output_bytes": sizes[k], "backward": True})
        edges += [[here - 1, here], [k, here]] + ([[k - 1, here]] if k else [])
    return read_instance(json.dumps({"ops": ops, "edges": edges})).graph


def pivots_of(graph, ancestry, data):
    """A chain of needed ops, as the relaxation wants its pivots."""
    needed = [k for k, is_needed in enumerate(graph.is_needed) if is_needed]
    chosen = []
    for op in needed:
        if data.draw(st.booleans()) and (not chosen or ancestry.precedes(chosen[-1], op)):
            chosen.append(op)
    return chosen


@settings(max_examples=150)
@given(graph=st.one_of(FREE, ANY), share=st.floats(0.3, 1.0), data=st.data())
def test_no_plan_beats_the_relaxation(graph, share, data):
    room = int(baseline_peak(graph) * share)
    ancestry = Ancestry(graph)
    relaxation = Relaxation(graph, ancestry, room, pivots_of(graph, ancestry, data))
    relaxed = relaxation.solve(time_limit_s=10, effort=10, seed=0)
    least = least_recompute(graph, room)
    if least is None:
        return
    assert not relaxed.is_infeasible
    assert relaxed.bound_ns <= least


@settings(max_examples=150)
@given(graph=FREE, share=st.floats(0.3, 1.0))
def test_what_is_proven_holds_of_every_plan(graph, share):
    room = int(baseline_peak(graph) * share)
    found = solve_relaxations(Problem(graph=graph, budget_bytes=room), time_limit_s=10, seed=0)
    least = least_recompute(graph, room)
    if found.is_infeasible:
        assert least is None
    if least is not None:
        assert found.bound_ns <= least
    for order in found.orders:
        timeline = simulate(graph, with_frees(graph, order))
        if timeline.peak_bytes <= room and timeline.recompute_ns <= found.bound_ns:
            assert least == found.bound_ns


@given(graph=FREE)
def test_ancestry_is_what_reads_say(graph):
    ancestry = Ancestry(graph)
    for op, node in enumerate(graph.ops):
        direct = {graph.producer[s] for s in node.reads}
        for other in range(len(graph.ops)):
            needs = other in direct or any(ancestry.precedes(other, p) for p in direct)
            assert ancestry.precedes(other, op) == needs
            assert bool(ancestry.after[other] >> op & 1) == needs


@given(graph=FREE, data=st.data())
def test_an_order_costs_no_more_than_its_solution(graph, data):
    ancestry = Ancestry(graph)
    room = int(baseline_peak(graph) * 0.9)
    pivots = pivots_of(graph, ancestry, data)
    relaxed = Relaxation(graph, ancestry, room, pivots).solve(time_limit_s=9, effort=9, seed=0)
    if relaxed.solution is None:
        return
    order = order_of(graph, relaxed.solution)
    timeline = simulate(graph, with_frees(graph, order))
    assert timeline.recompute_ns <= relaxed.bound_ns


def test_forced_bytes_are_those_of_a_chain_in_order():
    graph = published(6, skip=False)
    schedule = with_frees(graph, range(len(graph.ops)))
    timeline = simulate(graph, schedule)
    at_runs = [
        live
        for live, step in zip(timeline.live_bytes, schedule.steps, strict=True)
        if hasattr(step, "op")
    ]
    # Every op of it needs the one before, so nothing could stand elsewhere.
    assert bytes_at_first_run(graph, Ancestry(graph)) == at_runs


@pytest.mark.parametrize("share", [0.9, 0.8])
@pytest.mark.parametrize("method", ["auto", "moments"])
def test_training_graphs_in_the_plain_form_are_solved_to_the_optimum(method, share):
    graph = published(24)
    budget = int(baseline_peak(graph) * share)
    result = solve(Problem(graph=graph, budget_bytes=budget), method=method, time_limit_s=20)
    assert result.status is SolveStatus.OPTIMAL
    assert result.lower_bound_ns == result.recompute_ns > 0
    assert result.bound_class == "all plans"
    assert result.method == "moments"


def test_that_nothing_fits_is_proven_for_every_plan():
    # Both large values may run once only, and the last op comes after a wide one.
    b = Builder()
    first = b.add("first", sizes=(10,), recomputable=False)
    small = b.add("small", [first], sizes=(1,))
    wide = b.add("wide", [small], sizes=(15,))
    less = b.add("less", [wide], sizes=(1,))
    b.add("last", [first, less], output=True)
    problem = Problem(graph=b.graph(), budget_bytes=25)
    for method in ("auto", "moments"):
        result = solve(problem, method=method, time_limit_s=10)
        assert result.status is SolveStatus.INFEASIBLE
        assert result.lower_bound_bytes == 26
        assert result.bound_class == "all plans"


@pytest.mark.parametrize("method", ["local", "greedy", "intervals"])
def test_other_methods_are_measured_by_it_too(method):
    graph = published(12)
    budget = int(baseline_peak(graph) * 0.85)
    problem = Problem(graph=graph, budget_bytes=budget)
    best = solve(problem, time_limit_s=20)
    result = solve(problem, method=method, time_limit_s=20)
    assert 0 < best.lower_bound_ns <= result.lower_bound_ns or not result.schedule


def test_a_search_that_gets_no_time_claims_nothing():
    graph = published(12)
    problem = Problem(graph=graph, budget_bytes=int(baseline_peak(graph) * 0.85))
    found = solve_relaxations(problem, time_limit_s=0, seed=0)
    assert (found.bound_ns, found.orders, found.is_infeasible) == (0, [], False)


def test_large_graphs_are_refused_in_words(monkeypatch):
    for module in (moments, bound_moments):
        monkeypatch.setattr(module, "MOST_OPS", 10)
    problem = Problem(graph=chain(9), budget_bytes=60)
    with pytest.raises(ValueError, match=r"method .moments. takes .* 10 ops.*use .auto."):
        solve(problem, method="moments")
    assert solve_relaxations(problem, time_limit_s=1, seed=0).bound_ns == 0


def test_a_plan_with_a_backward_pass_is_measured_by_plans_in_its_order():
    graph = blocks(3)
    problem = Problem(graph=graph, budget_bytes=int(baseline_peak(graph) * 0.85))
    result = solve(problem, method="moments", time_limit_s=20)
    # Its plan has backward ops in another order than the graph's.
    bound = any_plan_bound_ns(problem, time_limit_s=20)
    assert result.bound_class == MOVED_CLASS
    assert 0 < bound <= result.lower_bound_ns <= result.recompute_ns
