"""Composition: windows that cover all segments, one option per window, cheapest within the budget.

A dynamic programme over cuts and over the bytes that earlier windows keep. When a window's backward
begins, what earlier windows keep is still in memory, and so is what the backward has written by
then: together with the window's own peak they must fit. The same holds in its forward pass. States
with nearly equal kept bytes share a bucket, and only the best one is kept. Its exact bytes are
carried along, so every plan that is found fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from autockpt_solvers.kernels.compiling import compiled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autockpt_solvers.clock import Clock
    from autockpt_solvers.methods.ilp.option import Option
    from autockpt_solvers.methods.ilp.segments import Segments
    from autockpt_solvers.methods.ilp.window import Window, WindowKind

# Of kept bytes, from none to the budget. Time grows with it; two states in one bucket differ by at
# most this share of the budget.
_BUCKETS = 768

_Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Windows that cover the segments, first to last, and the option of each."""

    parts: tuple[tuple[Window, Option], ...]

    @property
    def cost_ns(self) -> int:
        """Time of what it recomputes."""
        return sum(option.cost_ns for _, option in self.parts)

    def order(self, segments: Segments) -> list[int]:
        """The compute order of the whole graph."""
        early = {window.ops[k] for window, option in self.parts for k in option.early}
        required = segments.facts.graph.is_required
        order = [op for op in segments.forward if required[op] or op in early]
        for window, option in reversed(self.parts):
            order.extend(
                window.ops[step] if step >= 0 else window.backward[-1 - step]
                for step in option.tail
            )
        return order


class _Options(NamedTuple):
    """The options of a window kind as columns.

    Attributes:
        shift: How many buckets an option leads on.
        kept_bytes: Bytes it keeps.
        cost: Its time; 0 if the leanest plan is looked for.
        backward_bytes: Peak of its backward.
        forward_bytes: Peak of its forward pass.
    """

    shift: _Indices
    kept_bytes: _Floats
    cost: _Floats
    backward_bytes: _Floats
    forward_bytes: _Floats


class _States(NamedTuple):
    """Per cut and bucket, the best state.

    Attributes:
        value: Time so far, or the highest peak so far if the leanest plan is looked for; infinite
            if there is no state.
        kept_bytes: Bytes kept.
        origin: The window, option and bucket that the state came from.
    """

    value: _Floats
    kept_bytes: _Floats
    origin: _Indices


def compose(
    windows: Sequence[Window],
    options: Mapping[WindowKind, Sequence[Option]],
    budget: int,
    end: int,
    *,
    first: int = 0,
    clock: Clock | None = None,
) -> WindowPlan | None:
    """The cheapest plan that fits a budget, or None.

    Args:
        windows: Windows that may be used.
        options: Per window kind, its options.
        budget: Bytes that the graph may use.
        end: Segment after the last one to cover.
        first: First segment to cover.
        clock: Once its time is over, there is no plan.

    Returns:
        The plan.
    """
    if budget < 0:
        return None
    return _cover(windows, options, budget, first, end, is_leanest=False, clock=clock)


def leanest(
    windows: Sequence[Window],
    options: Mapping[WindowKind, Sequence[Option]],
    end: int,
    *,
    limit: int,
    first: int = 0,
    clock: Clock | None = None,
) -> WindowPlan | None:
    """The plan with the lowest peak, of those that keep `limit` bytes or less.

    As in `compose`, but the value of a state is the highest peak so far instead of the time.
    """
    return _cover(windows, options, limit, first, end, is_leanest=True, clock=clock)


def _cover(
    windows: Sequence[Window],
    options: Mapping[WindowKind, Sequence[Option]],
    budget: int,
    first: int,
    end: int,
    *,
    is_leanest: bool,
    clock: Clock | None,
) -> WindowPlan | None:
    bucket_bytes = max(1, -(-budget // _BUCKETS))
    shape = (end + 1 - first, budget // bucket_bytes + 1)
    states = _States(
        value=np.full(shape, np.inf),
        kept_bytes=np.zeros(shape),
        origin=np.full((*shape, 3), -1, dtype=np.int64),
    )
    states.value[0, 0] = 0.0
    columns: dict[WindowKind, _Options] = {}
    for w in sorted(range(len(windows)), key=lambda w: (windows[w].start, windows[w].end)):
        if clock is not None and clock.is_over:
            return None
        window = windows[w]
        if window.kind not in columns:
            columns[window.kind] = _columns(options[window.kind], bucket_bytes, is_leanest)
        start, target = window.start - first, window.end - first
        base = window.base_bytes
        _advance(states, start, target, w, columns[window.kind], base, budget, is_leanest)
    state = int(np.argmin(states.value[-1]))
    if not np.isfinite(states.value[-1][state]):
        return None
    return _trace(windows, options, states.origin, first, end, state)


def _columns(options: Sequence[Option], bucket_bytes: int, is_leanest: bool) -> _Options:
    rows = [(o.kept_bytes, o.cost_ns, o.backward_peak_bytes, o.forward_peak_bytes) for o in options]
    kept, cost, backward, forward = np.array(rows, dtype=np.float64).reshape(-1, 4).T.copy()
    shift = (kept // bucket_bytes).astype(np.int64)
    return _Options(shift, kept, np.zeros_like(cost) if is_leanest else cost, backward, forward)


@compiled
def best_steps(
    value: _Floats,
    kept: _Floats,
    shift: _Indices,
    peaks: _Floats,
    costs: _Floats,
    most_before: _Floats,
    low: int,
    high: int,
) -> tuple[_Floats, _Indices]:
    """Per bucket from low to high, the best value that any option leads to, and the option.

    Args:
        value: Per bucket, the value of the state before the window.
        kept: Per bucket, the bytes kept before it.
        shift: Per option, how many buckets it leads on.
        peaks: Per option, its peak beside what is kept before; the new value is at least this.
        costs: Per option, what it adds to the value.
        most_before: Per option, the most bytes that may be kept before it.
        low: The first bucket.
        high: The bucket after the last.

    Returns:
        The values, and the options: the first one of equals.
    """
    found = np.full(high - low, np.inf)
    picked = np.zeros(high - low, dtype=np.int64)
    for k in range(shift.size):
        for to in range(max(low, shift[k]), min(high, value.size + shift[k])):
            before = kept[to - shift[k]]
            if before > most_before[k]:
                continue
            reached = max(value[to - shift[k]] + costs[k], before + peaks[k])
            if reached < found[to - low]:
                found[to - low] = reached
                picked[to - low] = k
    return found, picked


@compiled
def _undominated(shift: _Indices, peaks: _Floats, costs: _Floats) -> _Indices:
    """Options that no other one equals or beats in all three respects; of equals, the first."""
    chosen = np.zeros(shift.size, dtype=np.int64)
    count = 0
    for k in range(shift.size):
        beaten = False
        for j in range(shift.size):
            if shift[j] <= shift[k] and peaks[j] <= peaks[k] and costs[j] <= costs[k]:
                is_equal = shift[j] == shift[k] and peaks[j] == peaks[k] and costs[j] == costs[k]
                if j < k or not is_equal:
                    beaten = j != k
            if beaten:
                break
        if not beaten:
            chosen[count] = k
            count += 1
    return chosen[:count]


@compiled
def _advance(
    states: _States,
    start: int,
    target: int,
    window: int,
    options: _Options,
    base: int,
    budget: int,
    is_leanest: bool,
) -> None:
    """Go on from every state at cut `start` by a window's options; keep the best at `target`."""
    value, kept = states.value[start], states.kept_bytes[start]
    reached = np.flatnonzero(np.isfinite(value))
    if reached.size == 0:
        return
    peaks = np.maximum(options.backward_bytes + base, options.forward_bytes)
    # Peaks that fit beside the most that is kept before are as good as none.
    floor = 0.0 if is_leanest else budget - kept[reached].max()
    chosen = _undominated(options.shift, np.maximum(peaks, floor), options.cost)
    chosen = chosen[options.kept_bytes[chosen] <= budget]
    if chosen.size == 0:
        return
    shift, keeps, costs = options.shift[chosen], options.kept_bytes[chosen], options.cost[chosen]
    peaks = peaks[chosen]
    low = reached[0] + shift.min()
    high = min(value.size, reached[-1] + shift.max() + 1)
    if high <= low:  # no option leads to a bucket within the budget
        return
    # The leanest plan does not count times. For the cheapest one, peaks only have to fit.
    if is_leanest:
        most_before = budget - keeps
    else:
        most_before = budget - np.maximum(keeps, peaks)
        peaks = np.full(peaks.size, -np.inf)
    found, picked = best_steps(value, kept, shift, peaks, costs, most_before, low, high)
    for k in np.flatnonzero(found < states.value[target, low:high]):
        bucket, option = low + k, picked[k]
        before = bucket - shift[option]
        states.value[target, bucket] = found[k]
        states.kept_bytes[target, bucket] = kept[before] + keeps[option]
        states.origin[target, bucket, 0] = window
        states.origin[target, bucket, 1] = chosen[option]
        states.origin[target, bucket, 2] = before


def _trace(
    windows: Sequence[Window],
    options: Mapping[WindowKind, Sequence[Option]],
    origin: _Indices,
    first: int,
    end: int,
    state: int,
) -> WindowPlan:
    """Follow the origins back from the last cut."""
    parts: list[tuple[Window, Option]] = []
    cut = end
    while cut > first:
        w, k, state = origin[cut - first, state].tolist()
        parts.append((windows[w], options[windows[w].kind][k]))
        cut = windows[w].start
    return WindowPlan(tuple(reversed(parts)))
