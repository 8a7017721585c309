"""What a watcher is told, and what it may do."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys

import pytest

from autockpt_solvers import (
    Problem,
    SearchReport,
    SolveStatus,
    StopSearch,
    baseline_schedule,
    judge,
    minimum_budget,
    simulate,
    solve,
    with_frees,
)
from autockpt_solvers.clock import Clock
from autockpt_solvers.methods.registry import METHODS
from autockpt_solvers.session import Session
from tests.solvers.graphs import blocks, chain

pytestmark = pytest.mark.usefixtures("short_searches")


def tight(graph, share=0.45):
    peak = simulate(graph, baseline_schedule(graph)).peak_bytes
    return Problem(graph=graph, budget_bytes=int(peak * share))


def test_reports_are_frozen_and_tell_stage_plan_bound_and_time():
    reports = []
    result = solve(tight(blocks(12)), watch=reports.append, time_limit_s=20)
    assert reports
    assert all(type(report) is SearchReport for report in reports)
    with pytest.raises(dataclasses.FrozenInstanceError):
        reports[0].stage = "other"
    for report in reports:
        assert report.stage
        assert report.limit_s == 20
        assert report.recompute_ns is None or report.recompute_ns >= result.recompute_ns
        assert report.lower_bound_ns <= result.recompute_ns
    elapsed = [report.elapsed_s for report in reports]
    assert elapsed == sorted(elapsed)


def test_a_watcher_changes_no_answer():
    problem = tight(blocks(8))
    alone, watched = solve(problem), solve(problem, watch=lambda report: None)
    assert alone.schedule == watched.schedule
    assert alone.lower_bound_ns == watched.lower_bound_ns


@pytest.mark.parametrize("after", [0, 1, 5])
def test_stop_search_returns_the_best_plan_so_far(after):
    calls = []

    def watch(report):
        calls.append(report)
        if len(calls) > after:
            raise StopSearch

    problem = tight(blocks(12), 0.35)
    result = solve(problem, watch=watch, time_limit_s=600)
    assert len(calls) <= after + 1  # once stopped, it is not called again
    if result.schedule is None:
        assert result.status is not SolveStatus.NOT_FOUND
    else:
        assert result.peak_bytes <= problem.budget_bytes
        assert 0 <= result.lower_bound_ns <= result.recompute_ns


def test_stop_search_ends_the_search_for_the_smallest_budget():
    def watch(report):
        raise StopSearch

    graph = blocks(12)
    found = minimum_budget(graph, watch=watch, time_limit_s=600)
    assert simulate(graph, found.schedule).peak_bytes <= found.peak_bytes


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("error", [BrokenError, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("after", [0, 4])
def test_any_other_exception_comes_out_as_it_is(error, after):
    """A search that has a plan takes an exception of a method for a warning, and goes on with it:
    one of the watcher must not end so."""
    calls = []

    def watch(report):
        calls.append(report)
        if len(calls) > after:
            raise error

    problem = tight(blocks(12), 0.35)
    try:
        solve(problem, watch=watch, time_limit_s=600)
    except error:
        pass
    else:
        assert len(calls) <= after
    # Nothing is broken: the next search gives what the first would have.
    assert solve(tight(blocks(4), 0.6)).schedule is not None


def test_judge_and_minimum_budget_are_watched_too():
    graph = blocks(12)
    reports = []
    found = minimum_budget(graph, method="greedy", watch=reports.append)
    assert reports
    before = len(reports)
    judge(Problem(graph=graph, budget_bytes=found.peak_bytes), found.schedule, watch=reports.append)
    assert len(reports) > before


def test_a_watcher_may_search_itself():
    inner = []

    def watch(report):
        inner.append(solve(tight(chain(6))).status)

    assert solve(tight(blocks(6)), watch=watch).schedule is not None
    assert inner


def test_compiling_is_told_and_no_part_of_the_time(tmp_path):
    """The first search of an installation took half a minute more than its limit, and said
    nothing."""
    code = """
from autockpt_solvers import *
import sys
sys.path.insert(0, "tests/solvers")
from graphs import chain
graph = chain(12)
stages = {}
def watch(report):
    stages[report.stage] = report.elapsed_s
peak = simulate(graph, baseline_schedule(graph)).peak_bytes
result = solve(Problem(graph=graph, budget_bytes=peak // 2), method="mincut", watch=watch)
told = [stage for stage in stages if stage.startswith("compiling the solver's kernels")]
print(len(told), result.peak_bytes > 0)
"""
    for told in (1, 0):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [str(told), "True"]


class Time:
    """A time that passes when it is told to."""

    now = 1000.0

    def monotonic(self):
        return self.now


def test_a_clock_stands_still_while_it_is_paused(monkeypatch):
    time = Time()
    monkeypatch.setattr("autockpt_solvers.clock.time", time)
    clock = Clock(limit_s=100)
    time.now += 1
    clock.pause("compiling")
    clock.pause("compiling what that needs")
    time.now += 30
    assert (clock.elapsed_s, clock.now(), clock.end) == (1, 1001, 1100)
    clock.resume()
    time.now += 2
    assert (clock.elapsed_s, clock.now()) == (3, 1003)
    assert clock.seconds_left(clock.end) == 97


def test_a_clock_that_is_stopped_is_past_every_deadline():
    def watch(report):
        raise StopSearch

    clock = Clock(limit_s=100, watch=watch)
    assert clock.is_over
    assert clock.now() > clock.end
    assert clock.until(10) <= clock.now()
    assert clock.seconds_left(math.inf) > 0  # a search that is asked late still answers


class Ticking(Clock):
    """A clock whose time is over after so many looks."""

    def __init__(self, looks):
        super().__init__(limit_s=1e6)
        self.looks = looks

    def now(self):
        self.looks -= 1
        return super().now() if self.looks > 0 else self.end + 1


@pytest.mark.parametrize("looks", [1, 5, 20, 60, 150, 300, 600, 1200])
@pytest.mark.parametrize("name", METHODS)
def test_whenever_the_time_is_over_every_plan_can_run(name, looks):
    """Windows that no time was left for were composed as if they kept nothing and cost nothing:
    the plan began in the middle."""
    graph = blocks(3 if name in ("exact", "intervals") else 6)
    session = Session(graph=graph, seed=0, clock=Ticking(looks))
    problem = tight(graph)
    found = METHODS[name].load()(problem, session, time_limit_s=60)
    for order in found.offered:
        simulate(graph, with_frees(graph, order))
