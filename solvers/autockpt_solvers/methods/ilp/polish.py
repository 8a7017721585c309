"""Integer programs where they pay: less time in the room of a plan's windows, or a lower peak."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from autockpt_solvers.methods.ilp.nest import nest

if TYPE_CHECKING:
    from autockpt_solvers.methods.ilp.compose import Plan
    from autockpt_solvers.methods.ilp.option import Option
    from autockpt_solvers.methods.ilp.pool import Pool
    from autockpt_solvers.methods.ilp.window import Window, WindowKind

_ROUNDS = 3
_SOLVE_EFFORT = 0.25
_POLISH_EFFORT = 1.5
_SQUEEZE_EFFORT = 1.2
_SHORT = 1.25  # room below this many times the leanest plan's peak is short
_UNLIMITED = 1 << 60


def polish(pool: Pool, plan: Plan, room: int, seed: int) -> Plan:
    """Improves a plan that fits `room` until integer programs find nothing better.

    Args:
        pool: Windows and options; gains what is found.
        plan: The plan.
        room: Bytes the graph may use.
        seed: Random seed.

    Returns:
        A plan at least as good.
    """
    # Per kind, the limits asked for and what was proven under them.
    refused: dict[WindowKind, list[tuple[tuple[int, int, int], float]]] = {}
    effort = _POLISH_EFFORT
    for _ in range(_ROUNDS):
        gained = False
        for kind, kept, peak, forward, index in _rooms(plan, room):
            option = plan.parts[index][1]
            model = pool.model(kind)
            if model is None or effort <= 0 or not _is_tight(pool.options[kind], option, kept):
                continue
            # A bound proven under wider limits holds under these too.
            known = refused.setdefault(kind, [])
            limits = (kept, peak, forward)
            if any(
                all(wide >= own for wide, own in zip(wider, limits, strict=True))
                and bound >= option.cost_ns * 0.999
                for wider, bound in known
            ):
                continue
            if time.monotonic() > pool.deadline:
                return plan
            answer = model.solve(
                kept_limit=kept,
                peak_limit=peak,
                forward_limit=forward,
                hint=option,
                effort=_SOLVE_EFFORT,
                seconds=max(0.05, pool.deadline - time.monotonic()),
                seed=seed,
            )
            effort -= answer.effort
            known.append((limits, answer.bound_ns))
            if answer.option is not None:
                gained |= pool.add(kind, answer.option)
        if not gained:
            break
        better = pool.plan(room)
        if better is None or better.cost_ns >= plan.cost_ns:
            break
        plan = better
    return plan


def _is_tight(options: list[Option], option: Option, kept: int) -> bool:
    """Whether only the turn's peak keeps the window from a cheaper option.

    Where it does not, the minimum cuts have had their say, and programs find next to nothing.
    """
    return any(o.kept_bytes <= kept and o.cost_ns < option.cost_ns for o in options)


def _rooms(plan: Plan, room: int) -> list[tuple[WindowKind, int, int, int, int]]:
    """Per window, dearest first: kind, most bytes to keep, highest peaks of turn and forward."""
    before = 0
    standing = []
    for window, option in plan.parts:
        standing.append((before, room - before - window.peak_bytes(option)))
        before += option.kept_bytes
    rooms = []
    slack = max(0, room - before)
    for index in range(len(plan.parts) - 1, -1, -1):
        window, option = plan.parts[index]
        kept_before, own_slack = standing[index]
        rooms.append(
            (
                window.kind,
                option.kept_bytes + slack,
                max(option.turn_peak_bytes, room - kept_before - window.base_bytes),
                max(option.forward_peak_bytes, room - kept_before),
                index,
            )
        )
        slack = max(0, min(slack, own_slack))
    return sorted(rooms, key=lambda r: (-plan.parts[r[4]][1].cost_ns, r[4]))


def is_short(room: int, least: int) -> bool:
    """Whether room is short, given the leanest plan's peak: worth looking for leaner options."""
    return room <= _SHORT * least


def squeeze(pool: Pool, plan: Plan, limit: int, seed: int) -> tuple[Pool, Plan]:
    """Asks integer programs for leaner options, and nests windows, to find a leaner plan.

    Only windows over the segments where the leanest plan peaks are asked, until that place stays.

    Args:
        pool: Windows and options; gains what is found.
        plan: The leanest plan so far.
        limit: Peak of the baseline.
        seed: Random seed.

    Returns:
        The pool, and the leanest plan.
    """
    asked: set[WindowKind] = set()
    effort = _SQUEEZE_EFFORT
    while effort > 0 and time.monotonic() < pool.deadline:
        _, window = _highest(plan)
        kinds = dict.fromkeys(
            w.kind for w in pool.windows if w.start < window.end and window.start < w.end
        )
        new = [kind for kind in kinds if kind not in asked]
        if not new:
            break
        for kind in new:
            asked.add(kind)
            if effort > 0:
                effort -= _lean_options(pool, kind, seed)
        plan = pool.leanest(limit) or plan
    nest(pool, limit)
    return pool, pool.leanest(limit) or plan


def _highest(plan: Plan) -> tuple[int, Window]:
    """The highest peak of a plan, and its window."""
    before = 0
    highest = (-1, plan.parts[0][0])
    for window, option in plan.parts:
        peak = before + window.peak_bytes(option)
        if peak > highest[0]:
            highest = (peak, window)
        before += option.kept_bytes
    return highest


def _lean_options(pool: Pool, kind: WindowKind, seed: int) -> float:
    """Adds the options of a kind that keep least and peak lowest; gives the effort spent."""
    model = pool.model(kind)
    if model is None or time.monotonic() > pool.deadline:
        return 0.0
    leanest = min(pool.options[kind], key=lambda o: (o.kept_bytes, o.turn_peak_bytes))
    answer = model.solve(
        kept_limit=leanest.kept_bytes,
        peak_limit=_UNLIMITED,
        forward_limit=_UNLIMITED,
        hint=leanest,
        minimise_peak=True,
        effort=_SOLVE_EFFORT,
        seconds=max(0.05, pool.deadline - time.monotonic()),
        seed=seed,
    )
    effort = answer.effort
    if answer.option is None:
        return effort
    low, high = answer.option.turn_peak_bytes, leanest.turn_peak_bytes
    for peak in dict.fromkeys((low, (low + high) // 2)):
        cheap = model.solve(
            kept_limit=leanest.kept_bytes,
            peak_limit=peak,
            forward_limit=_UNLIMITED,
            hint=answer.option,
            effort=_SOLVE_EFFORT,
            seconds=max(0.05, pool.deadline - time.monotonic()),
            seed=seed,
        )
        effort += cheap.effort
        pool.add(kind, cheap.option or answer.option)
    return effort
