"""The values that solvers return."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autockpt_solvers.schedule import Schedule


class SolveStatus(StrEnum):
    """Whether a schedule was found, and whether it is proven to be the best.

    OPTIMAL: it fits, and no plan of `Result.bound_class` recomputes less. FEASIBLE: it fits.

    With the others no schedule fits; `Result.minimum_peak_bytes` is the lowest peak that was found.
    INFEASIBLE: proven, no plan of `Result.bound_class` fits. NOT_FOUND: the search ended by itself
    without one. OUT_OF_TIME: the time limit or the watcher ended the search; a longer one may find
    one.
    """

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    NOT_FOUND = "not_found"
    OUT_OF_TIME = "out_of_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A solver's answer, replayed by the simulator.

    Attributes:
        status: Whether it fits, and whether it is optimal.
        schedule: The schedule, or None if none fits.
        recompute_ns: Time of repeated runs (0 if none fits).
        peak_bytes: Peak of the schedule, fixed bytes included; the lowest found if none fits.
        lower_bound_ns: No plan of `bound_class` recomputes less (0 if none fits).
        lower_bound_bytes: No plan of `bound_class` has a lower peak, fixed bytes included. If it
            exceeds the budget, no such plan fits.
        bound_class: The plans that both bounds hold for, in words. The schedule, if any, is one.
        minimum_peak_bytes: The smallest budget for which a plan is known, fixed bytes included.
            With `auto` and `ilp`, on graphs with a backward pass, it is the same for every budget,
            and what `minimum_budget` returns. Other methods: lowest peak of the plans offered.
        minimum_bound_bytes: No plan of the class of the plan with that peak has a lower one, fixed
            bytes included. If both are equal, the minimum is proven.
        minimum_schedule: A schedule with that peak, if the minimum is the same for every budget.
        solve_time_s: Wall-clock time of the solve.
        method: Name of the method that made the schedule.
        has_offered: Whether the method offered any plan; a callable that returns None offers none.
    """

    status: SolveStatus
    schedule: Schedule | None
    recompute_ns: int
    peak_bytes: int
    lower_bound_ns: int
    lower_bound_bytes: int
    bound_class: str
    minimum_peak_bytes: int
    minimum_bound_bytes: int
    minimum_schedule: Schedule | None
    solve_time_s: float
    method: str
    has_offered: bool = True

    @property
    def gap(self) -> float:
        """Share of the recompute time that a better plan of `bound_class` might save, 0 to 1."""
        if self.recompute_ns <= self.lower_bound_ns:
            return 0.0
        return (self.recompute_ns - self.lower_bound_ns) / self.recompute_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPoint:
    """A budget, and what a plan for it recomputes.

    Attributes:
        budget_bytes: The budget, fixed bytes included.
        recompute_ns: Time of repeated runs of a plan that fits.
    """

    budget_bytes: int
    recompute_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimumBudget:
    """The smallest budget of a graph.

    Attributes:
        peak_bytes: Smallest budget that the method meets, fixed bytes not included.
        lower_bound_bytes: No plan of `bound_class` has a lower peak.
        bound_class: The plans that the bound holds for, as in `Result`.
        schedule: A schedule whose peak is at most `peak_bytes`.
    """

    peak_bytes: int
    lower_bound_bytes: int
    bound_class: str
    schedule: Schedule
