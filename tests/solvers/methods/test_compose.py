"""The composition of windows."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from autockpt_solvers.methods.ilp.compose import compose, leanest
from autockpt_solvers.methods.ilp.generate import generate, thin
from autockpt_solvers.methods.ilp.option import Option
from autockpt_solvers.methods.ilp.segments import Segments
from autockpt_solvers.methods.ilp.window import make_window
from autockpt_solvers.orders.facts import GraphFacts
from tests.solvers.graphs import blocks, graphs


def covers(windows, count):
    """All ways to cover the segments with windows."""
    if count == 0:
        yield ()
    for window in windows:
        if window.end == count:
            yield from ((*cover, window) for cover in covers(windows, window.start))


def every_plan(windows, options, count):
    """Kept bytes, peak and time of every cover with every choice of options."""
    for cover in covers(windows, count):
        for chosen in itertools.product(*(options[window.kind] for window in cover)):
            kept = peak = 0
            for window, option in zip(cover, chosen, strict=True):
                peak = max(peak, kept + window.peak_bytes(option))
                kept += option.kept_bytes
            yield kept, peak, sum(option.cost_ns for option in chosen)


@given(graphs(max_forward=5, max_backward=4, max_regions=1), st.integers(0, 200))
def test_composition_finds_the_cheapest_and_the_leanest_plan(graph, budget):
    """Up to 768 bytes every byte has a bucket of its own, so the search is exhaustive."""
    segments = Segments(GraphFacts(graph))
    count = min(4, segments.num_segments)
    if not count:
        return
    windows = [
        make_window(segments, start, end)
        for start in range(count)
        for end in range(start + 1, min(count, start + 2) + 1)
    ]
    options = {
        window.kind: thin(generate(window.kind, effort=2_000, deadline=float("inf")), 3)
        for window in windows
    }
    plans = list(every_plan(windows, options, count))
    fitting = [cost for kept, peak, cost in plans if max(kept, peak) <= budget]
    found = compose(windows, options, budget, count)
    assert (found.cost_ns if found else None) == min(fitting, default=None)
    peaks = [peak for kept, peak, _ in plans if kept <= budget]
    lean = leanest(windows, options, count, limit=budget)
    if lean is None:
        assert not peaks
        return
    kept = peak = 0
    for window, option in lean.parts:
        peak = max(peak, kept + window.peak_bytes(option))
        kept += option.kept_bytes
    assert peak == min(peaks)


def test_windows_that_lead_past_the_budget_are_passed_over() -> None:
    """What was kept before and by the window was more than the last bucket holds: the compiled
    steps were asked for a negative number of buckets, and the search ended in an error."""
    segments = Segments(GraphFacts(blocks(4)))
    count = segments.num_segments
    windows = [make_window(segments, start, start + 1) for start in range(count)]
    option = Option(
        kept_bytes=600,
        backward_peak_bytes=0,
        forward_peak_bytes=0,
        cost_ns=0,
        early=(),
        tail=(),
    )
    options = {window.kind: [option] for window in windows}
    assert count > 2
    assert compose(windows, options, 1000, count) is None
