"""Composition: one option per window, windows covering the chain, cheapest within the room.

A dynamic programme over cuts and over the bytes that earlier windows keep. When a window's turn
comes, the earlier windows' bytes still stand, and so does what the backward holds by then: with
its own peak they must fit. The same holds in its forward pass. Kept bytes are rounded up to a
quantum, so what is found always fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autockpt_solvers.methods.ilp.chain import Chain
    from autockpt_solvers.methods.ilp.option import Option
    from autockpt_solvers.methods.ilp.window import Window, WindowKind

_STATES = 4096


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
    states: int = _STATES,
) -> Plan | None:
    """The cheapest plan within `room` bytes, or None.

    Args:
        windows: Windows that may be used.
        options: Per window kind, its options.
        room: Bytes the graph may use.
        end: Segment after the last to cover.
        first: First segment to cover.
        states: Number of quanta the room is divided into.

    Returns:
        The plan.
    """
    if room < 0:
        return None
    quantum = max(1, -(-room // states))
    count = room // quantum + 1
    cost = [np.full(count, np.inf) for _ in range(end + 1 - first)]
    cost[0][0] = 0.0
    # Per cut and state: the window, option and state it came from.
    origin = [np.full((3, count), -1, dtype=np.int64) for _ in range(end + 1 - first)]
    by_start = sorted(range(len(windows)), key=lambda w: (windows[w].start, windows[w].end))
    for w in by_start:
        window = windows[w]
        source, target = cost[window.start - first], cost[window.end - first]
        for k, option in enumerate(options[window.kind]):
            peak = window.peak_bytes(option)
            kept = -(-option.kept_bytes // quantum)
            top = min((room - peak) // quantum + 1, count - kept)
            if top <= 0:
                continue
            candidate = source[:top] + option.cost_ns
            better = np.flatnonzero(candidate < target[kept : kept + top])
            if better.size:
                target[kept + better] = candidate[better]
                origin[window.end - first][:, kept + better] = np.stack(
                    [np.full(better.size, w), np.full(better.size, k), better]
                )
    state = int(np.argmin(cost[-1]))
    if not np.isfinite(cost[-1][state]):
        return None
    return _trace(windows, options, origin, first, end, state)


def leanest(
    windows: Sequence[Window],
    options: Mapping[WindowKind, Sequence[Option]],
    end: int,
    *,
    limit: int,
    first: int = 0,
    states: int = 2 * _STATES,
) -> Plan | None:
    """The plan with the least peak, of those that peak at `limit` or below.

    Like `compose`, but the value of a state is the highest peak so far instead of the time.
    """
    quantum = max(1, -(-limit // states))
    count = limit // quantum + 1
    worst = [np.full(count, np.inf) for _ in range(end + 1 - first)]
    worst[0][0] = 0.0
    origin = [np.full((3, count), -1, dtype=np.int64) for _ in range(end + 1 - first)]
    held = np.arange(count, dtype=np.float64) * quantum
    for w in sorted(range(len(windows)), key=lambda w: (windows[w].start, windows[w].end)):
        window = windows[w]
        source, target = worst[window.start - first], worst[window.end - first]
        for k, option in enumerate(options[window.kind]):
            kept = -(-option.kept_bytes // quantum)
            top = count - kept
            if top <= 0:
                continue
            candidate = np.maximum(source[:top], held[:top] + window.peak_bytes(option))
            better = np.flatnonzero(candidate < target[kept:])
            if better.size:
                target[kept + better] = candidate[better]
                origin[window.end - first][:, kept + better] = np.stack(
                    [np.full(better.size, w), np.full(better.size, k), better]
                )
    state = int(np.argmin(worst[-1]))
    if not np.isfinite(worst[-1][state]):
        return None
    return _trace(windows, options, origin, first, end, state)


def _trace(
    windows: Sequence[Window],
    options: Mapping[WindowKind, Sequence[Option]],
    origin: list[np.ndarray[tuple[int, int], np.dtype[np.int64]]],
    first: int,
    end: int,
    state: int,
) -> Plan:
    """Follows the origins back from the last cut."""
    parts: list[tuple[Window, Option]] = []
    cut = end
    while cut > first:
        w, k, state = (int(v) for v in origin[cut - first][:, state])
        parts.append((windows[w], options[windows[w].kind][k]))
        cut = windows[w].start
    return Plan(tuple(reversed(parts)))
