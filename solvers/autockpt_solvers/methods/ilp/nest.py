"""Nested windows: a long window's turn runs its forward ops again, by a plan of its own.

Where keeping what crosses every border is too much, a long window keeps nothing inside. Its turn
begins with a second forward pass that keeps what a plan of shorter windows within it asks for,
and then follows that plan. Long windows may lie within longer ones: recomputation of
recomputation, as in Revolve (Griewank and Walther 2000) and Rotor (Beaumont et al. 2019), so
memory falls far below one kept border per layer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from autockpt_solvers.methods.ilp.compose import Plan, compose, leanest
from autockpt_solvers.methods.ilp.option import Option, replay
from autockpt_solvers.methods.ilp.window import make_window

if TYPE_CHECKING:
    from autockpt_solvers.methods.ilp.pool import Pool
    from autockpt_solvers.methods.ilp.window import Window

_ROOMS = (1.0, 1.2, 1.5)  # rooms for the inner plan, in the least it needs
_GROWTH = 2


def nest(pool: Pool, limit: int) -> None:
    """Adds long windows to the pool, each twice as long as the last, planned from shorter ones.

    Args:
        pool: Windows and options; gains the long windows.
        limit: Most bytes an inner plan may use.
    """
    chain = pool.chain
    count = chain.num_segments
    width = 2 * max(w.end - w.start for w in pool.windows)
    while width < count and time.monotonic() < pool.deadline:
        for start in range(0, count - width + 1, max(1, width // 4)):
            end = start + width
            if chain.region_of_segment[start] != chain.region_of_segment[end - 1]:
                continue
            window = make_window(chain, start, end)
            if not window.stages or time.monotonic() > pool.deadline:
                continue
            if window.kind not in pool.options:
                inner = [w for w in pool.windows if start <= w.start and w.end <= end]
                pool.options[window.kind] = _options(pool, window, inner, limit)
            if pool.options[window.kind]:
                pool.windows.append(window)
        width *= _GROWTH


def _options(pool: Pool, window: Window, inner: list[Window], limit: int) -> list[Option]:
    """Options of a long window from plans of the windows within it."""
    lean = leanest(inner, pool.options, window.end, first=window.start, limit=limit)
    if lean is None or not window.kind.stages[0].open:
        return []
    before = least = 0
    for part, option in lean.parts:
        least = max(least, before + part.peak_bytes(option))
        before += option.kept_bytes
    plans = [lean]
    for factor in _ROOMS:
        plan = compose(inner, pool.options, int(least * factor), window.end, first=window.start)
        if plan is not None:
            plans.append(plan)
    return [_option(window, plan) for plan in plans]


def _option(window: Window, plan: Plan) -> Option:
    """The option that runs the window's forward ops again and then follows `plan`."""
    kind = window.kind
    local = {op: k for k, op in enumerate(window.ops)}
    stage = {op: -1 - t for t, op in enumerate(window.stages)}
    tail: list[int] = []
    for part, option in reversed(plan.parts):
        tail.extend(
            local[part.ops[step]] if step >= 0 else stage[part.stages[-1 - step]]
            for step in option.tail
        )
    made: set[int] = set()
    wanted: list[int] = []
    for step in tail:
        reads = kind.ops[step].reads if step >= 0 else kind.stages[-1 - step].reads
        wanted.extend(s for s in reads if s not in made)
        if step >= 0:
            made.update(kind.ops[step].writes)
    again: set[int] = set()
    while wanted:
        storage = wanted.pop()
        op = kind.producer[storage]
        if op in again or storage in kind.forced:
            continue
        if kind.ops[op].rerunnable or kind.ops[op].fresh:
            again.add(op)
            wanted.extend(kind.ops[op].reads)
    return replay(kind, (), [*sorted(again), *tail])
