"""The largest batch size whose plan fits, predicted from a step that is known for every size."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from autockpt.batch.affine import AffineStep, PeakLines, SizedProblem
from autockpt_solvers import (
    Method,
    MinimumBudget,
    Schedule,
    baseline_schedule,
    minimum_budget,
)

MOST_SAMPLES = 2**20  # that a search considers, if you do not say
_MOST_ROUNDS = 8


def largest_planned(
    step: AffineStep,
    budget_bytes: int,
    *,
    most: int,
    method: str | Method,
    time_limit_s: float,
    most_rounds: int = _MOST_ROUNDS,
) -> int:
    """The largest size that a plan is found for; 0 if none is.

    A schedule found for one size can run at every size, and its peak there is simulated exactly. So
    each search for a leanest plan gives a size that surely fits, and the next search is for the
    size above.

    Args:
        step: The step.
        budget_bytes: The budget.
        most: The largest size to consider.
        method: The solver's method.
        time_limit_s: Time limit of each search.
        most_rounds: How many searches to make at most, upwards and then downwards.
    """

    def leanest(size: int) -> MinimumBudget:
        return minimum_budget(step.graph(size), method=method, time_limit_s=time_limit_s)

    best, at = 0, step.second.size
    for _ in range(most_rounds):
        schedule = leanest(at).schedule
        found = largest_of_schedules(step, budget_bytes, (schedule,), most=most)
        if found <= best:
            break
        best, at = found, found + 1
        if best == most:
            break
    # A search for the size itself may miss the plan that was found at another size.
    for _ in range(most_rounds):
        if not best or step.fixed_bytes(best) + leanest(best).peak_bytes <= budget_bytes:
            break
        best -= 1
    return best


def largest_of_schedules(
    step: AffineStep, budget_bytes: int, schedules: Iterable[Schedule], *, most: int
) -> int:
    """The largest size at which one of these schedules fits; 0 if none fits at size 1."""

    def fits(lines: PeakLines, size: int) -> bool:
        return lines.peak_bytes(size) <= budget_bytes

    best = 0
    for schedule in schedules:
        lines = step.peaks_of(schedule)
        if best < most and fits(lines, best + 1):
            best = bisected(functools.partial(fits, lines), low=best + 1, most=most)
    return best


def largest_checkpointed(step: AffineStep, budget_bytes: int, *, most: int) -> int:
    """The largest size with checkpoints at regular cuts of the forward, as most tools set them."""
    return largest_planned(step, budget_bytes, most=most, method="uniform", time_limit_s=5.0)


def largest_eager(
    step: AffineStep, captured: Iterable[SizedProblem], budget_bytes: int, most: int
) -> int:
    """The largest size that fits as it is; 0 if none does.

    Eager's peak is near that of the graph with nothing recomputed. How far it is off is known for
    the captured sizes, and taken from the nearest of them.

    Args:
        step: The step.
        captured: The captured sizes.
        budget_bytes: The budget.
        most: The largest size to consider.
    """
    planned = step.peaks_of(baseline_schedule(step.second.problem.graph)).peak_bytes
    off = {
        sized.size: sized.problem.baseline_peak_bytes - planned(sized.size) for sized in captured
    }

    def fits(size: int) -> bool:
        nearest = min(off, key=lambda known: (abs(known - size), known))
        return planned(size) + off[nearest] * size // nearest <= budget_bytes

    return bisected(fits, low=1, most=most) if fits(1) else 0


def bisected(fits: Callable[[int], bool], *, low: int, most: int) -> int:
    """The largest size that fits, if fitting ends once; `low` fits.

    Args:
        fits: Whether a size fits.
        low: A size that fits.
        most: The largest size to consider.
    """
    step = 1
    while low + step <= most and fits(low + step):
        low += step
        step *= 2
    high = min(low + step, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
