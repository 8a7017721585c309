"""Revolve and the chain's dynamic programme: their closed form, and their limits."""

from __future__ import annotations

import math

import pytest

from autockpt_solvers import (
    Problem,
    SolveStatus,
    minimum_budget,
    simulate,
    solve,
    with_frees,
)
from autockpt_solvers.methods.revolve import _runs, moves
from autockpt_solvers.methods.segment_chain import SegmentChain
from autockpt_solvers.orders.facts import GraphFacts
from tests.solvers.graphs import blocks, chain


@pytest.mark.parametrize("snapshots", range(6))
@pytest.mark.parametrize("length", [1, 2, 3, 7, 12, 20])
def test_the_moves_of_revolve_are_as_many_as_its_closed_form_says(length, snapshots):
    plan = moves(0, length, snapshots)
    assert sum(kind == "run" for kind, _ in plan) == _runs(length, snapshots)
    assert [segment for kind, segment in plan if kind == "back"] == list(reversed(range(length)))


@pytest.mark.parametrize(("snapshots", "repeats"), [(1, 2), (2, 2), (3, 3)])
def test_binomially_many_segments_are_run_at_most_so_often(snapshots, repeats):
    length = math.comb(snapshots + 1 + repeats, repeats)
    plan = moves(0, length, snapshots)
    most = max(plan.count(("run", segment)) for segment in range(length))
    assert most <= repeats + 1


def test_the_chain_covers_every_op_once():
    segments = SegmentChain(GraphFacts(blocks(5)), 48)
    graph = blocks(5)
    assert [op for ops in segments.ops for op in ops] == list(range(graph.num_forward))
    backward = [op for ops in reversed(segments.backward) for op in ops]
    assert backward == list(range(graph.num_forward, len(graph.ops)))


def test_the_dynamic_programme_recomputes_no_more_than_revolve_where_both_fit():
    graph = chain(40)
    peak = simulate(graph, with_frees(graph, GraphFacts(graph).baseline())).peak_bytes
    for share in (0.8, 0.6, 0.4):
        problem = Problem(graph=graph, budget_bytes=int(peak * share))
        planned, binomial = (solve(problem, method=m) for m in ("chain", "revolve"))
        assert planned.status is not SolveStatus.INFEASIBLE
        assert planned.recompute_ns <= binomial.recompute_ns


def test_revolve_needs_few_snapshots_for_long_chains():
    peaks = []
    for length in (32, 128):
        graph = chain(length)
        least = solve(Problem(graph=graph, budget_bytes=1), method="revolve")
        peaks.append(least.minimum_peak_bytes - length)  # each layer leaves one byte of gradient
    assert peaks[1] <= 2 * peaks[0]


@pytest.mark.parametrize("power", range(3, 10))
def test_equal_blocks_train_in_logarithmic_memory(power):
    # C(2s, s) blocks can be turned back with s snapshots, each block run s times more at most.
    length = 2**power
    snapshots = next(s for s in range(1, length) if math.comb(2 * s, s) >= length)
    graph = chain(length, size=1000)
    segments = SegmentChain(GraphFacts(graph), length + 1)
    order = segments.order(moves(0, len(segments.ops), snapshots - 1))
    timeline = simulate(graph, with_frees(graph, order))
    # What enters the first block is a snapshot. Beside them stand a block's value, the gradients
    # above and below it, and what each block leaves.
    assert timeline.peak_bytes < 1000 * (snapshots + 4)
    assert snapshots <= power
    repeats = timeline.recompute_ns / length
    assert repeats <= snapshots + 1


@pytest.mark.parametrize("length", [8, 32])
def test_nested_windows_train_equal_blocks_in_logarithmic_memory(length):
    found = minimum_budget(chain(length, size=1000), method="ilp", time_limit_s=60)
    assert found.peak_bytes < 1000 * (math.log2(length) + 1)


def test_on_equal_blocks_nothing_runs_more_often_than_in_revolve():
    """Without revolve's plans to start from, `ilp` needed more memory on 64 blocks, or more runs
    in the same memory."""
    graph = chain(64, size=1000)
    segments = SegmentChain(GraphFacts(graph), 65)
    order = segments.order(moves(0, len(segments.ops), 3))
    revolve = simulate(graph, with_frees(graph, order))
    problem = Problem(graph=graph, budget_bytes=revolve.peak_bytes)
    assert solve(problem, method="ilp", time_limit_s=5).recompute_ns <= revolve.recompute_ns
    least = minimum_budget(graph, method="revolve").peak_bytes
    assert minimum_budget(graph, method="ilp", time_limit_s=5).peak_bytes <= least
