"""Looking for a leaner plan: leaner options by integer programs, and nested windows.

The options that minimum cuts find trade kept bytes for time. If memory is short, the peak of a
window's own backward matters too, and integer programs lower it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.methods.ilp.nest import nest

if TYPE_CHECKING:
    from autockpt_solvers.methods.ilp.compose import WindowPlan
    from autockpt_solvers.methods.ilp.pool import OptionPool
    from autockpt_solvers.methods.ilp.window import Window, WindowKind

# In deterministic time of CP-SAT, in about seconds: for each integer program, and for all. Chosen
# on the zoo graphs by the smallest budgets that `ilp` reaches there.
_EFFORT_OF_EACH = 0.25
_EFFORT = 1.2
# A budget below this many times the leanest plan's peak is short.
_SHORT = 1.25
_UNLIMITED = 1 << 60  # bytes; more than any graph may have


def is_short(budget: int, least: int) -> bool:
    """Whether a budget is short, given the leanest plan's peak, so that `squeeze` may help."""
    return budget <= _SHORT * least


def squeeze(pool: OptionPool, plan: WindowPlan, limit: int, seed: int) -> WindowPlan:
    """Add leaner options and nested windows to the pool, and find a leaner plan.

    Only windows over the segments where the leanest plan peaks get leaner options, until the peak
    stays in one place.

    Args:
        pool: Windows and options; gains what is found.
        plan: The leanest plan so far.
        limit: The baseline's peak.
        seed: Random seed.

    Returns:
        The leanest plan.
    """
    asked: set[WindowKind] = set()
    effort = _EFFORT
    while effort > 0 and pool.clock.now() < pool.deadline:
        highest = _highest(plan)
        kinds = dict.fromkeys(
            w.kind for w in pool.windows if w.start < highest.end and highest.start < w.end
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
    return pool.leanest(limit) or plan


def _highest(plan: WindowPlan) -> Window:
    """The window at which a plan peaks."""
    before = 0
    highest, window = -1, plan.parts[0][0]
    for part, option in plan.parts:
        peak = before + part.peak_bytes(option)
        if peak > highest:
            highest, window = peak, part
        before += option.kept_bytes
    return window


def _lean_options(pool: OptionPool, kind: WindowKind, seed: int) -> float:
    """Add options that keep least and have a low peak; returns the effort spent."""
    model = pool.model(kind)
    if model is None or pool.clock.now() > pool.deadline:
        return 0.0
    leanest = min(pool.options[kind], key=lambda o: (o.kept_bytes, o.backward_peak_bytes))
    answer = model.solve(
        kept_limit=leanest.kept_bytes,
        peak_limit=_UNLIMITED,
        forward_limit=_UNLIMITED,
        hint=leanest,
        minimise_peak=True,
        effort=_EFFORT_OF_EACH,
        seconds=pool.clock.seconds_left(pool.deadline),
        seed=seed,
        clock=pool.clock,
    )
    effort = answer.effort
    if answer.option is None:
        return effort
    low, high = answer.option.backward_peak_bytes, leanest.backward_peak_bytes
    for peak in dict.fromkeys((low, (low + high) // 2)):
        cheap = model.solve(
            kept_limit=leanest.kept_bytes,
            peak_limit=peak,
            forward_limit=_UNLIMITED,
            hint=answer.option,
            effort=_EFFORT_OF_EACH,
            seconds=pool.clock.seconds_left(pool.deadline),
            seed=seed,
            clock=pool.clock,
        )
        effort += cheap.effort
        pool.add(kind, cheap.option or answer.option)
    return effort
