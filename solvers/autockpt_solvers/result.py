"""The values that solvers hand back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autockpt_solvers.schedule import Schedule


class SolveStatus(StrEnum):
    """How an answer stands.

    OPTIMAL: fits, and no plan of `Result.bound_class` recomputes less. FEASIBLE: fits. INFEASIBLE:
    the method found no schedule that fits; `Result.minimum_peak_bytes` says what it could reach.
    """

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A solver's answer, already replayed by the simulator.

    Attributes:
        status: How the answer stands.
        schedule: The schedule, or None when infeasible.
        recompute_ns: Time spent running ops again (0 when infeasible).
        peak_bytes: Peak of the schedule, fixed bytes included; when infeasible, the least reached.
        lower_bound_ns: No plan of `bound_class` recomputes less (0 when infeasible).
        lower_bound_bytes: No plan of `bound_class` has a lower peak, fixed bytes included. Above
            the budget, it proves that no such plan fits.
        bound_class: The plans that both bounds hold for, in words. Bounds for plans that run each
            backward op once, in one order, are given only where the schedule is one of them.
        minimum_peak_bytes: Least peak of what the method offered, fixed bytes included; when
            infeasible, the least it can reach.
        solve_time_s: Wall-clock time of the solve.
        method: Name of the method that made the schedule.
    """

    status: SolveStatus
    schedule: Schedule | None
    recompute_ns: int
    peak_bytes: int
    lower_bound_ns: int
    lower_bound_bytes: int
    bound_class: str
    minimum_peak_bytes: int
    solve_time_s: float
    method: str

    @property
    def gap(self) -> float:
        """Share of the recomputation that a better plan of the bound's class might save, 0 to 1."""
        if self.recompute_ns <= self.lower_bound_ns:
            return 0.0
        return (self.recompute_ns - self.lower_bound_ns) / self.recompute_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimumBudget:
    """The least memory a graph can be run in.

    Attributes:
        peak_bytes: Least budget that the method meets, fixed bytes not included.
        lower_bound_bytes: No plan of `bound_class` has a lower peak.
        bound_class: The plans that the bound holds for, as in `Result`.
        schedule: A schedule whose peak is at most `peak_bytes`.
    """

    peak_bytes: int
    lower_bound_bytes: int
    bound_class: str
    schedule: Schedule
