"""Nested windows: a long window's backward runs its forward ops again, by a plan of its own.

If keeping what crosses every border takes too much memory, a long window keeps nothing inside. Its
backward begins with a second forward pass, which keeps what a plan of the shorter windows within it
asks for, and then follows that plan. Long windows may lie within longer ones: recomputation within
recomputation, as in Revolve (Griewank and Walther 2000) and Rotor (Beaumont et al. 2019). So memory
falls far below one kept border per layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.methods.ilp.compose import WindowPlan, compose, leanest
from autockpt_solvers.methods.ilp.option import Option, measure
from autockpt_solvers.methods.ilp.window import make_window

if TYPE_CHECKING:
    from autockpt_solvers.methods.ilp.pool import OptionPool
    from autockpt_solvers.methods.ilp.window import Window

_BUDGETS = (1.0, 1.2, 1.5)  # of the inner plan, as multiples of the least that it needs
_GROWTH = 2  # a window is this many times as long as those within it


def nest(pool: OptionPool, limit: int) -> None:
    """Add long windows to the pool, each twice as long as the last, planned from shorter ones.

    Args:
        pool: Windows and options; gains the long windows.
        limit: Most bytes that an inner plan may use.
    """
    segments = pool.segments
    count = segments.num_segments
    width = 2 * max(w.end - w.start for w in pool.windows)
    while width < count and pool.clock.now() < pool.deadline:
        for start in range(0, count - width + 1, max(1, width // 4)):
            end = start + width
            if segments.region_of_segment[start] != segments.region_of_segment[end - 1]:
                continue
            window = make_window(segments, start, end)
            if not window.backward or pool.clock.now() > pool.deadline:
                continue
            if window.kind not in pool.options:
                inner = [w for w in pool.windows if start <= w.start and w.end <= end]
                pool.options[window.kind] = _options(pool, window, inner, limit)
            if pool.options[window.kind]:
                pool.windows.append(window)
        width *= _GROWTH


def _options(pool: OptionPool, window: Window, inner: list[Window], limit: int) -> list[Option]:
    """Options of a long window from plans of the windows within it."""
    lean = leanest(
        inner, pool.options, window.end, first=window.start, limit=limit, clock=pool.clock
    )
    if lean is None or not window.kind.backward[0].may_recompute:
        return []
    before = least = 0
    for part, option in lean.parts:
        least = max(least, before + part.peak_bytes(option))
        before += option.kept_bytes
    plans = [lean]
    for factor in _BUDGETS:
        budget = int(least * factor)
        plan = compose(
            inner, pool.options, budget, window.end, first=window.start, clock=pool.clock
        )
        if plan is not None:
            plans.append(plan)
    return [_option(window, plan) for plan in plans]


def _option(window: Window, plan: WindowPlan) -> Option:
    """The option that runs the window's forward ops again and then follows `plan`."""
    kind = window.kind
    local = {op: k for k, op in enumerate(window.ops)}
    backward = {op: -1 - t for t, op in enumerate(window.backward)}
    tail: list[int] = []
    for part, option in reversed(plan.parts):
        tail.extend(
            local[part.ops[step]] if step >= 0 else backward[part.backward[-1 - step]]
            for step in option.tail
        )
    made: set[int] = set()
    wanted: list[int] = []
    for step in tail:
        reads = kind.ops[step].reads if step >= 0 else kind.backward[-1 - step].reads
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
    return measure(kind, (), [*sorted(again), *tail])
