"""The parts of a curve: a budget with its plan, and what simple methods reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autockpt.report.parts import check_not_negative
from autockpt_solvers import SolveStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """A budget, and what a plan for it costs.

    The last four numbers are None if no plan fits the budget; `status` says whether that is proven.

    Attributes:
        budget_bytes: The budget.
        status: Whether a plan fits, and whether it is proven optimal in its class.
        method: Name of the method that found the plan.
        predicted_peak_bytes: Simulated peak of a step under the plan.
        recompute_ns: Time of the recomputed operations.
        overhead: That time as a share of a step in which nothing is recomputed.
        lower_bound_ns: Within the budget, no plan of the bound's class recomputes less.
        lower_bound: The bound as a share of that step.
    """

    budget_bytes: int
    status: SolveStatus
    method: str
    predicted_peak_bytes: int | None = None
    recompute_ns: int | None = None
    overhead: float | None = None
    lower_bound_ns: int | None = None
    lower_bound: float | None = None

    def __post_init__(self) -> None:
        check_not_negative(self)
        if self.fits and self.status not in (SolveStatus.OPTIMAL, SolveStatus.FEASIBLE):
            raise ValueError(f"status is {self.status.value!r}, but a plan fits")

    @property
    def fits(self) -> bool:
        """Whether a plan fits the budget."""
        return self.recompute_ns is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimplePoint:
    """What a plan of a simple method costs, to compare with.

    Attributes:
        method: Name of the method.
        predicted_peak_bytes: Simulated peak of a step under the plan: the smallest budget it fits.
        recompute_ns: Time of the recomputed operations.
        overhead: That time as a share of a step in which nothing is recomputed.
    """

    method: str
    predicted_peak_bytes: int
    recompute_ns: int
    overhead: float

    def __post_init__(self) -> None:
        check_not_negative(self)


def knee_of(points: Sequence[CurvePoint]) -> CurvePoint | None:
    """The point below which saving memory becomes dear.

    It is the point farthest below the straight line from the first point that fits to the cheapest
    one, with both axes scaled from 0 to 1 (Satopaa et al., "Finding a Kneedle in a Haystack", 2011,
    for a curve that falls). The units do not matter, and of equal points the smallest budget is
    taken.

    Args:
        points: Points in ascending order of their budgets.

    Returns:
        The point; None if no point is below the line.
    """
    fitting = [point for point in points if point.recompute_ns is not None]
    if len(fitting) < 3:
        return None
    costs = [point.recompute_ns or 0 for point in fitting]
    last = costs.index(min(costs))
    if last < 2:
        return None
    least_bytes = fitting[0].budget_bytes
    all_bytes, all_ns = fitting[last].budget_bytes - least_bytes, costs[0] - costs[last]

    def below(k: int) -> int:
        """How far a point is below the line, in an integer unit that is the same for all."""
        more_bytes, more_ns = fitting[k].budget_bytes - least_bytes, costs[k] - costs[last]
        return all_bytes * all_ns - more_bytes * all_ns - more_ns * all_bytes

    at = max(range(last + 1), key=lambda k: (below(k), -k))
    return fitting[at] if below(at) > 0 else None
