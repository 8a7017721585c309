"""Composition: one option per window, windows covering the chain, cheapest within the room.

A dynamic programme over cuts and over the bytes that earlier windows keep. When a window's turn
comes, the earlier windows' bytes still stand, and so does what the backward holds by then: with
its own peak they must fit. The same holds in its forward pass. States with nearly equal kept bytes
share a bucket, where the best one stays; its bytes are carried along exactly, so what is found
always fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.compiling import IS_COMPILED, compiled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autockpt_solvers.methods.ilp.option import Option
    from autockpt_solvers.methods.ilp.segments import Chain
    from autockpt_solvers.methods.ilp.window import Window, WindowKind

_BUCKETS = 768

_Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
_Table = tuple[_Indices, _Floats, _Floats, _Floats, _Floats]


@dataclass(frozen=True, slots=True)
class Plan:
    """Windows that cover the chain, first to last, and the option of each."""

    parts: tuple[tuple[Window, Option], ...]

    @property
    def cost_ns(self) -> int:
        """Time of what runs again."""
        return sum(option.cost_ns for _, option in self.parts)

    def order(self, chain: Chain) -> list[int]:
        """The compute order of the whole graph."""
        early = {window.ops[k] for window, option in self.parts for k in option.early}
        required = chain.orders.graph.is_required
        order = [op for op in chain.forward if required[op] or op in early]
        for window, option in reversed(self.parts):
            order.extend(
                window.ops[step] if step >= 0 else window.stages[-1 - step] for step in option.tail
            )
        return order


def compose(
    windows: Sequence[Window],
    options: Mapping[WindowKind, Sequence[Option]],
    room: int,
    end: int,
    *,
    first: int = 0,
) -> Plan | None:
    """The cheapest plan within `room` bytes, or None.

    Args:
        windows: Windows that may be used.
        options: Per window kind, its options.
        room: Bytes the graph may use.
        end: Segment after the last to cover.
        first: First segment to cover.

    Returns:
        The plan.
    """
    if room < 0:
        return None
    return _search(windows, options, room, first, end, is_leanest=False)


def leanest(
    windows: Sequence[Window],
    options: Mapping[WindowKind, Sequence[Option]],
    end: int,
    *,
    limit: int,
    first: int = 0,
) -> Plan | None:
    """The plan with the least peak, of those that keep `limit` bytes or less.

    Like `compose`, but the value of a state is the highest peak so far instead of the time.
    """
    return _search(windows, options, limit, first, end, is_leanest=True)


def _search(
    windows: Sequence[Window],
    options: Mapping[WindowKind, Sequence[Option]],
    room: int,
    first: int,
    end: int,
    *,
    is_leanest: bool,
) -> Plan | None:
    quantum = max(1, -(-room // _BUCKETS))
    count = room // quantum + 1
    # Per cut and bucket: the value of the best state, its kept bytes, and the window, option and
    # bucket it came from.
    value = np.full((end + 1 - first, count), np.inf)
    kept = np.zeros((end + 1 - first, count))
    origin = np.full((end + 1 - first, count, 3), -1, dtype=np.int64)
    value[0, 0] = 0.0
    tables: dict[WindowKind, _Table] = {}
    for w in sorted(range(len(windows)), key=lambda w: (windows[w].start, windows[w].end)):
        window = windows[w]
        if window.kind not in tables:
            tables[window.kind] = _table(options[window.kind], quantum, is_leanest=is_leanest)
        start, target = window.start - first, window.end - first
        table, base = tables[window.kind], window.base_bytes
        _advance(value, kept, origin, start, target, w, table, base, room, is_leanest)
    state = int(np.argmin(value[-1]))
    if not np.isfinite(value[-1][state]):
        return None
    return _trace(windows, options, origin, first, end, state)


def _table(options: Sequence[Option], quantum: int, *, is_leanest: bool) -> _Table:
    """Per option how many buckets on it leads, its kept bytes, its time, and its two peaks."""
    rows = [(o.kept_bytes, o.cost_ns, o.turn_peak_bytes, o.forward_peak_bytes) for o in options]
    keeps, costs, turns, forwards = np.array(rows, dtype=np.float64).reshape(-1, 4).T.copy()
    shift = (keeps // quantum).astype(np.int64)
    return shift, keeps, np.zeros_like(costs) if is_leanest else costs, turns, forwards


@compiled
def steps_one_by_one(
    value: _Floats,
    kept: _Floats,
    shift: _Indices,
    peaks: _Floats,
    costs: _Floats,
    most_before: _Floats,
    low: int,
    high: int,
) -> tuple[_Floats, _Indices]:
    """The best value that any option leads to, per bucket from low to high, and the option.

    Args:
        value: Per bucket the value of the state before the window; infinite where there is none.
        kept: Per bucket the bytes kept before it.
        shift: Per option how many buckets on it leads.
        peaks: Per option its peak beside what is kept before, which the value is at least.
        costs: Per option what it adds to the value.
        most_before: Per option the most that may be kept before it.
        low: The first bucket.
        high: The bucket after the last.

    Returns:
        The values, and the options: of equal ones the first.
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


def steps_at_once(
    value: _Floats,
    kept: _Floats,
    shift: _Indices,
    peaks: _Floats,
    costs: _Floats,
    most_before: _Floats,
    low: int,
    high: int,
) -> tuple[_Floats, _Indices]:
    """The same as `steps_one_by_one` by operations on whole arrays: faster where not compiled."""
    rows = value.size - shift
    before = _views(kept, 0.0)[:, low:high][rows]
    candidates = _views(value, np.inf)[:, low:high][rows] + costs[:, None]
    candidates = np.maximum(candidates, before + peaks[:, None])
    candidates[before > most_before[:, None]] = np.inf
    picked = np.argmin(candidates, axis=0)
    return np.take_along_axis(candidates, picked[None, :], axis=0)[0], picked


def _views(row: _Floats, fill: float) -> _Floats:
    """Views of the row: number `count - k` is the row moved to the right by `k`."""
    padded = np.concatenate([np.full(row.size, fill), row])
    views: _Floats = np.lib.stride_tricks.sliding_window_view(padded, row.size)
    return views


@compiled
def _undominated(shift: _Indices, peaks: _Floats, costs: _Floats) -> _Indices:
    """Indices of options that none equals or beats in all three; of equal ones, the first."""
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


_best_steps = steps_one_by_one if IS_COMPILED else steps_at_once


@compiled
def _advance(
    value: _Floats,
    kept: _Floats,
    origin: _Indices,
    start: int,
    target: int,
    window: int,
    table: _Table,
    base: int,
    room: int,
    is_leanest: bool,
) -> None:
    """Goes on from every state at cut `start` by a window's options; the best stay at `target`."""
    reached = np.flatnonzero(np.isfinite(value[start]))
    if reached.size == 0:
        return
    shift, keeps, costs, turns, forwards = table
    peaks = np.maximum(turns + base, forwards)
    # Peaks that fit beside the most that is kept before are as good as none.
    floor = 0.0 if is_leanest else room - kept[start][reached].max()
    chosen = _undominated(shift, np.maximum(peaks, floor), costs)
    chosen = chosen[keeps[chosen] <= room]
    if chosen.size == 0:
        return
    shift, keeps, peaks, costs = shift[chosen], keeps[chosen], peaks[chosen], costs[chosen]
    low = reached[0] + shift.min()
    high = min(value.shape[1], reached[-1] + shift.max() + 1)
    if high <= low:  # no option leads to a bucket within the room
        return
    # For the leanest plan times do not count; for the cheapest one peaks only have to fit.
    if is_leanest:
        most_before = room - keeps
    else:
        most_before = room - np.maximum(keeps, peaks)
        peaks = np.full(peaks.size, -np.inf)
    found, picked = _best_steps(
        value[start], kept[start], shift, peaks, costs, most_before, low, high
    )
    for k in np.flatnonzero(found < value[target, low:high]):
        bucket, option = low + k, picked[k]
        before = bucket - shift[option]
        value[target, bucket] = found[k]
        kept[target, bucket] = kept[start, before] + keeps[option]
        origin[target, bucket, 0] = window
        origin[target, bucket, 1] = chosen[option]
        origin[target, bucket, 2] = before


def _trace(
    windows: Sequence[Window],
    options: Mapping[WindowKind, Sequence[Option]],
    origin: _Indices,
    first: int,
    end: int,
    state: int,
) -> Plan:
    """Follows the origins back from the last cut."""
    parts: list[tuple[Window, Option]] = []
    cut = end
    while cut > first:
        w, k, state = origin[cut - first, state].tolist()
        parts.append((windows[w], options[windows[w].kind][k]))
        cut = windows[w].start
    return Plan(tuple(reversed(parts)))
