"""Backward ops moved: orders that may run, and what they bring."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autockpt_solvers import (
    ComputeGraph,
    Problem,
    ScheduleError,
    minimum_budget,
    simulate,
    solve,
    with_frees,
)
from autockpt_solvers.bounds.peak import lower_bound_bytes
from autockpt_solvers.bounds.proof import IN_ORDER_CLASS, MOVED_CLASS
from autockpt_solvers.bounds.recomputation import lower_bound_ns
from autockpt_solvers.orders.facts import GraphFacts
from autockpt_solvers.orders.reordered import with_backward
from autockpt_solvers.search.backward import (
    _least_grown,
    _listed,
    _shrinking_first,
    find_order,
)
from tests.solvers.graphs import Builder, chain, graphs

RULES = (_shrinking_first, _least_grown)


def late_gradients(length=6):
    """What each layer makes of its gradient for a weight's is turned into that at the very end."""
    b = Builder()
    acts = []
    for k in range(length):
        acts.append(b.add(f"f{k}", acts[-1:], (30,), 10))
    b.add("loss", acts[-1:], (1,), output=True)
    g = b.add("dloss", acts[-1:], (10,), is_backward=True)
    copies = []
    for k in reversed(range(length)):
        copies.append(b.add(f"copy{k}", [g], (20,), is_backward=True))
        g = b.add(f"d{k}", [g, acts[k]], (10,), 10, is_backward=True)
    for k, copy in enumerate(copies):
        b.add(f"use{k}", [copy], (1,), output=True, is_backward=True)
    b.add("dx", [g], (1,), output=True, is_backward=True)
    return b.graph()


def fenced(graph):
    """The same graph, in which no backward op may move."""
    ops = tuple(dataclasses.replace(op, is_fence=op.is_backward) for op in graph.ops)
    return ComputeGraph(ops=ops, storages=graph.storages, outputs=graph.outputs)


def between(graph, share):
    facts = GraphFacts(graph)
    least, most = lower_bound_bytes(graph), facts.evaluate(facts.baseline())[0]
    return Problem(graph=graph, budget_bytes=least + int((most - least) * share))


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=60)
@given(graph=graphs(max_backward=9))
def test_listed_orders_run_each_op_once_and_keep_to_their_stretch(rule, graph):
    listed = _listed(graph, rule)
    assert sorted(listed) == list(range(graph.num_forward, len(graph.ops)))
    assert [graph.stretch[op] for op in listed] == sorted(graph.stretch[graph.num_forward :])
    moved = with_backward(graph, listed)
    baseline = GraphFacts(moved.graph).baseline()
    there = simulate(moved.graph, with_frees(moved.graph, baseline))
    here = simulate(graph, with_frees(graph, moved.originally(baseline)))
    assert (here.peak_bytes, here.recompute_ns) == (there.peak_bytes, there.recompute_ns)


def test_a_stretch_ends_at_a_fence_and_with_a_region():
    b = Builder()
    b.add("f", (), (1,), region=0)
    b.add("loss", (), (1,), output=True, region=1)
    for name, region, is_fence in (
        ("a", 1, False),
        ("b", 1, False),
        ("fence", 1, True),
        ("c", 1, False),
        ("d", 0, False),
    ):
        b.add(name, (), (1,), output=True, is_backward=True, region=region, is_fence=is_fence)
    graph = b.graph()
    assert graph.stretch == (0, 0, 1, 1, 2, 3, 4)

    def run(*order):
        return simulate(graph, with_frees(graph, (1, *order)))

    assert run(2, 3, 4, 5, 6).peak_bytes == run(3, 2, 4, 5, 6).peak_bytes
    for order in ((2, 4, 3, 5, 6), (2, 3, 5, 4, 6), (2, 3, 4, 6, 5)):
        with pytest.raises(ScheduleError, match="must not pass a fence or the border of a region"):
            run(*order)


def test_moved_ops_recompute_less_than_any_plan_in_the_graphs_order():
    problem = between(late_gradients(), 0.25)
    result = solve(problem, method="ilp", time_limit_s=20)
    assert result.bound_class == MOVED_CLASS
    assert result.recompute_ns < lower_bound_ns(problem, time_limit_s=20)
    assert result.lower_bound_ns <= result.recompute_ns


def test_fences_keep_the_graphs_order():
    graph = fenced(late_gradients())
    assert find_order(graph, time_limit_s=10) is None
    result = solve(between(graph, 0.5), method="ilp", time_limit_s=20)
    assert result.bound_class == IN_ORDER_CLASS
    backward = [op for op in result.schedule.compute_order if op >= graph.num_forward]
    assert backward == sorted(backward)


def test_an_order_that_holds_more_at_its_worst_is_not_taken():
    """Budgets near the least, which `ilp` met in the graph's order, were out of its reach."""
    for graph in (late_gradients(), late_gradients(3)):
        moved = find_order(graph, time_limit_s=10)
        assert moved is None or lower_bound_bytes(moved.graph) <= lower_bound_bytes(graph)


def test_wide_graphs_are_listed_quickly():
    """All that was ready was rated anew for each op: 10,000 at once took most of a minute."""
    b = Builder()
    x = b.add("f", (), (1,))
    b.add("loss", [x], (1,), output=True)
    for k in range(10_000):
        b.add(f"b{k}", [x], (k % 7,), output=True, is_backward=True)
    graph = b.graph()
    sizes = [graph.size(graph.ops[op].writes[0]) for op in _listed(graph, _least_grown)]
    assert sizes == sorted(sizes)


def test_no_solver_is_loaded_before_it_is_asked():
    """The search imported the heuristics, and they OR-Tools: a third of the import's time."""
    code = "import sys, autockpt_solvers; print(any(m.startswith('ortools') for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_a_moved_baseline_is_told_as_such():
    graph = late_gradients()
    moved = find_order(graph, time_limit_s=10).graph
    room = GraphFacts(moved).evaluate(GraphFacts(moved).baseline())[0]
    assert solve(Problem(graph=graph, budget_bytes=room)).method == "none"


def test_an_order_that_brings_nothing_leaves_the_graphs_own():
    assert find_order(chain(8), time_limit_s=10) is None


def test_a_moved_order_may_fit_without_recomputation():
    """Room for the moved baseline, though not for the graph's own: nothing runs again."""
    graph = late_gradients()
    moved = find_order(graph, time_limit_s=10)
    own, other = (GraphFacts(g).evaluate(GraphFacts(g).baseline())[0] for g in (graph, moved.graph))
    assert other < own
    result = solve(Problem(graph=graph, budget_bytes=other), method="ilp")
    assert result.recompute_ns == 0
    assert simulate(graph, result.schedule).peak_bytes == other


@pytest.mark.usefixtures("short_searches")
def test_more_budget_never_costs_more_where_ops_move():
    graph = late_gradients()
    least = minimum_budget(graph, method="ilp").peak_bytes
    most = GraphFacts(graph).evaluate(GraphFacts(graph).baseline())[0]
    step = max(1, (most - least) // 6)
    results = [
        solve(Problem(graph=graph, budget_bytes=room), method="ilp")
        for room in range(least, most + 1, step)
    ]
    assert all(result.schedule is not None for result in results)
    costs = [result.recompute_ns for result in results]
    assert costs == sorted(costs, reverse=True)
    below = solve(Problem(graph=graph, budget_bytes=least - 1), method="ilp")
    assert below.schedule is None


def test_fixed_bytes_over_the_budget_are_an_answer():
    """The room was made a budget of its own, and one below zero raised."""
    result = solve(Problem(graph=late_gradients(), budget_bytes=5, fixed_bytes=90), method="ilp")
    assert result.schedule is None
    assert result.minimum_peak_bytes > 90


@settings(max_examples=30)
@given(graph=graphs(max_backward=6), data=st.data())
def test_the_simulator_lets_ops_trade_places_in_their_stretch_only(graph, data):
    baseline = GraphFacts(graph).baseline()
    backward = [place for place, op in enumerate(baseline) if op >= graph.num_forward]
    if len(backward) < 2:
        return
    k = data.draw(st.integers(0, len(backward) - 2))
    order = list(baseline)
    first, second = backward[k], backward[k + 1]
    order[first], order[second] = order[second], order[first]
    if graph.stretch[order[first]] == graph.stretch[order[second]]:
        return
    with pytest.raises(ScheduleError):
        simulate(graph, with_frees(graph, order))
