"""The steps of the composition, compiled and not."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autockpt_solvers.methods.ilp.compose import compose, steps_at_once, steps_one_by_one
from autockpt_solvers.methods.ilp.option import Option
from autockpt_solvers.methods.ilp.segments import Chain
from autockpt_solvers.methods.ilp.window import make_window
from autockpt_solvers.orders.facts import Orders
from tests.solvers.graphs import blocks


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_both_ways_to_step_find_the_same(seed: int, is_leanest: bool) -> None:
    draw = np.random.default_rng(seed)
    count, num_options = int(draw.integers(2, 40)), int(draw.integers(1, 6))
    value = draw.integers(0, 9, count).astype(float)
    value[draw.random(count) < 0.4] = np.inf
    kept = np.where(np.isfinite(value), draw.integers(0, 50, count), 0).astype(float)
    shift = draw.integers(0, count, num_options)
    peaks = draw.integers(0, 60, num_options).astype(float)
    costs = draw.integers(0, 9, num_options).astype(float)
    if is_leanest:
        costs = np.zeros_like(costs)
    else:
        peaks = np.full_like(peaks, -np.inf)
    most_before = draw.integers(0, 60, num_options).astype(float)
    low = int(shift.min())
    steps = (value, kept, shift, peaks, costs, most_before, low, count)
    found, picked = steps_one_by_one(*steps)
    expected, expected_picked = steps_at_once(*steps)
    assert np.array_equal(found, expected)
    reached = np.isfinite(found)
    assert np.array_equal(picked[reached], expected_picked[reached])


def test_windows_that_lead_past_the_room_are_passed_over() -> None:
    """What was kept before and by the window was more than the last bucket holds: the compiled
    steps were asked for a negative number of buckets, and the search ended in an error."""
    chained = Chain(Orders(blocks(4)))
    count = chained.num_segments
    windows = [make_window(chained, start, start + 1) for start in range(count)]
    option = Option(
        kept_bytes=600, turn_peak_bytes=0, forward_peak_bytes=0, cost_ns=0, early=(), tail=()
    )
    options = {window.kind: [option] for window in windows}
    assert count > 2
    assert compose(windows, options, 1000, count) is None
