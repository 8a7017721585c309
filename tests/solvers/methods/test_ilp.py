"""The default method: its parts one by one, and laws of the whole."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autockpt_solvers import Problem, SolveStatus, minimum_budget, simulate, solve, with_frees
from autockpt_solvers.bounds.peak import lower_bound_bytes
from autockpt_solvers.methods.ilp.compose import compose, leanest
from autockpt_solvers.methods.ilp.generate import generate
from autockpt_solvers.methods.ilp.model import WindowModel
from autockpt_solvers.methods.ilp.option import just_in_time, measure, pareto
from autockpt_solvers.methods.ilp.segments import Segments
from autockpt_solvers.methods.ilp.window import make_window
from autockpt_solvers.orders.facts import GraphFacts
from autockpt_solvers.orders.network import KeepNetwork
from tests.solvers.graphs import Builder, blocks, chain, graphs

HEURISTICS = ("mincut", "greedy", "revolve")
UNLIMITED = 1 << 60


def peak_of(graph):
    facts = GraphFacts(graph)
    return facts.evaluate(facts.baseline())[0]


def make_windows(graph):
    segments = Segments(GraphFacts(graph))
    count = segments.num_segments
    return segments, [
        make_window(segments, i, j) for i in range(count) for j in range(i + 1, count + 1)
    ]


@given(graphs())
def test_evaluate_agrees_with_the_simulator(graph):
    facts = GraphFacts(graph)
    for order in (facts.baseline(), facts.just_in_time(())):
        timeline = simulate(graph, with_frees(graph, order))
        assert facts.evaluate(order) == (timeline.peak_bytes, timeline.recompute_ns)


def test_identical_layers_are_one_kind():
    _, windows = make_windows(blocks(12))
    widths = {w.end - w.start: set() for w in windows}
    for window in windows:
        widths[window.end - window.start].add(window.kind)
    assert len([w for w in windows if w.end - w.start == 1]) >= 12
    assert len(widths[1]) <= 4


def test_segments_cover_the_backward_in_order():
    segments, _ = make_windows(blocks(5))
    count = segments.num_segments
    rows = [segments.backward_rows(k, k + 1) for k in reversed(range(count))]
    assert rows[0][0] == 0
    assert rows[-1][1] == len(segments.backward)
    assert all(a[1] == b[0] for a, b in pairwise(rows))


def test_a_skip_read_by_a_late_layer_is_kept_by_the_windows_between():
    b = Builder()
    skip = x = b.add("x", (), (10,))
    inputs = []
    for k in range(12):
        inputs.append(x)
        x = b.add(f"f{k}", [x], (10,), 5)
    joined = b.add("join", [x, skip], (10,), 1)
    b.add("loss", [joined], (1,), output=True)
    g = b.add("dloss", [joined, skip], (10,), is_backward=True)
    for k in reversed(range(12)):
        g = b.add(f"d{k}", [g, inputs[k]], (10,), 5, is_backward=True)
    b.add("dx", [g], (1,), output=True, is_backward=True)
    graph = b.graph()
    segments, windows = make_windows(graph)
    last = segments.needed_until[skip]
    assert last >= 2
    # The skip is the first storage of every window that starts the chain.
    for window in windows:
        if window.start == 0:
            assert (0 in window.kind.forced) == (window.end <= last)
    budget = int(peak_of(graph) * 0.7)
    result = solve(Problem(graph=graph, budget_bytes=budget))
    assert result.status is not SolveStatus.INFEASIBLE


@given(graphs(), st.data())
def test_an_option_costs_and_peaks_as_the_simulator_says(graph, data):
    """One window over a whole one-region graph: its options are plans of the graph."""
    segments = Segments(GraphFacts(graph))
    if segments.num_segments == 0 or len(set(segments.region_of_segment)) > 1:
        return
    window = make_window(segments, 0, segments.num_segments)
    kept = data.draw(st.sets(st.integers(0, max(0, len(window.kind.sizes) - 1))))
    kept = {s for s in kept if s < len(window.kind.sizes)}
    option = just_in_time(window.kind, kept)
    plan = compose([window], {window.kind: [option]}, 10**6, segments.num_segments)
    if plan is None:
        return
    order = plan.order(segments)
    timeline = simulate(graph, with_frees(graph, order))
    assert timeline.recompute_ns == option.cost_ns
    assert timeline.peak_bytes <= window.peak_bytes(option)


@given(st.integers(1, 3), st.integers(0, 4))
def test_the_integer_program_is_no_worse_than_any_option(length, which):
    _, windows = make_windows(blocks(length))
    window = windows[which % len(windows)]
    options = generate(window.kind, effort=20_000, deadline=float("inf"))
    if not window.kind.backward:
        return
    option = options[which % len(options)]
    answer = WindowModel(window.kind).solve(
        kept_limit=option.kept_bytes,
        peak_limit=option.backward_peak_bytes,
        forward_limit=option.forward_peak_bytes,
        hint=option,
    )
    assert answer.option is not None
    assert answer.option.cost_ns <= option.cost_ns
    assert answer.option.kept_bytes <= option.kept_bytes
    assert answer.option.backward_peak_bytes <= option.backward_peak_bytes
    assert answer.option.forward_peak_bytes <= option.forward_peak_bytes


def test_the_integer_program_knows_when_nothing_fits():
    _, windows = make_windows(blocks(3))
    window = max(windows, key=lambda w: len(w.kind.backward))
    answer = WindowModel(window.kind).solve(
        kept_limit=UNLIMITED, peak_limit=1, forward_limit=UNLIMITED
    )
    assert answer.option is None


def test_pareto_keeps_what_nothing_beats():
    _, windows = make_windows(blocks(2))
    kind = windows[-1].kind
    options = generate(kind, effort=20_000, deadline=float("inf"))
    front = pareto(options)
    assert pareto([*front, *options]) == front
    assert measure(kind, front[0].early, front[0].tail) == front[0]


def test_leanest_is_the_smallest_budget_that_composes():
    segments, windows = make_windows(blocks(4))
    options = {w.kind: generate(w.kind, effort=20_000, deadline=float("inf")) for w in windows}
    count = segments.num_segments
    lean = leanest(windows, options, count, limit=2000)
    before = peak = 0
    for window, option in lean.parts:
        peak = max(peak, before + window.peak_bytes(option))
        before += option.kept_bytes
    assert compose(windows, options, peak, count) is not None
    assert compose(windows, options, peak - 1, count) is None


@given(graphs(), st.floats(0, 1))
def test_never_worse_than_a_heuristic_and_an_answer_when_one_has_it(graph, share):
    budget = int(lower_bound_bytes(graph) * (1 - share) + peak_of(graph) * share)
    problem = Problem(graph=graph, budget_bytes=budget)
    ours = solve(problem, method="ilp")
    for method in HEURISTICS:
        theirs = solve(problem, method=method)
        if theirs.schedule is not None:
            assert ours.schedule is not None
            assert ours.recompute_ns <= theirs.recompute_ns
        assert ours.minimum_peak_bytes <= theirs.minimum_peak_bytes


@settings(max_examples=20)
@given(graphs())
def test_more_budget_never_costs_more(graph):
    least, most = lower_bound_bytes(graph), peak_of(graph)
    last = None
    for step in range(6):
        problem = Problem(graph=graph, budget_bytes=least + (most - least) * step // 5)
        result = solve(problem)
        if last is not None:
            assert result.schedule is not None
            assert result.recompute_ns <= last
        last = None if result.schedule is None else result.recompute_ns
    assert last == 0


@pytest.mark.parametrize("graph", [blocks(6), chain(40)], ids=["blocks", "chain"])
def test_the_minimum_is_at_or_under_what_checkpointing_every_block_reaches(graph):
    problem = Problem(graph=graph, budget_bytes=lower_bound_bytes(graph))
    uniform = solve(problem, method="uniform")
    assert minimum_budget(graph).peak_bytes <= uniform.minimum_peak_bytes


def test_nesting_goes_below_keeping_every_border():
    graph = blocks(40, mask=False)
    assert minimum_budget(graph).peak_bytes < 40 * 16 + lower_bound_bytes(blocks(1, mask=False))


def test_the_answer_does_not_depend_on_the_number_of_calls_before():
    graph = blocks(3)
    problem = Problem(graph=graph, budget_bytes=int(peak_of(graph) * 0.5))
    first = solve(problem)
    solve(Problem(graph=chain(7), budget_bytes=40))
    assert solve(problem).schedule == first.schedule


def test_what_must_be_kept_may_cost_more_than_64_bits_hold():
    """The flow's status was not looked at: 40 storages of 2**58 gave a cut of no meaning."""
    network = KeepNetwork(
        again_ns=[None] * 40 + [5, 5],
        reads=[()] * 42,
        producer=range(42),
        priced=range(42),
        needed=range(42),
        must_keep=(),
    )
    prices = [float(1 << 60)] * 40
    assert network.kept([*prices, 4.0, 6.0]) == {*range(40), 40}
    assert network.kept([*prices, 6.0, 4.0]) == {*range(40), 41}
