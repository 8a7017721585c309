"""The plain values of a plan, which its report shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from autockpt.report.kinds import MemoryKind
from autockpt.report.parts import FixedBytes, ModuleRow, check_not_negative
from autockpt_solvers import SolveStatus

COST_SOURCES = ("measured", "roofline", "model")
RUNGS = ("whole", "blocks", "checkpoint", "eager")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanValues:
    """A `Plan` without its graph and schedule; `Plan` documents the fields."""

    budget_bytes: int
    predicted_peak_bytes: int
    baseline_peak_bytes: int
    minimum_peak_bytes: int
    baseline_step_ns: int
    recompute_ns: int
    lower_bound_ns: int
    status: SolveStatus
    method: str
    solve_time_s: float
    fixed: FixedBytes
    gradients_bytes: int
    optimizer_name: str
    optimizer_assumed: bool
    cost_source: str
    device: str
    num_graphs: int
    rows: tuple[ModuleRow, ...]
    rung: str = "whole"
    measured_peak_bytes: int | None = None
    notes: tuple[str, ...] = ()
    minimum_bound_bytes: int = 0
    cheaper_budgets: tuple[tuple[int, int], ...] = ()
    outputs_bytes: int = 0
    older_gradients_bytes: int = 0
    context_bytes: int = 0
    peak_parts: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        check_not_negative(self)
        if self.peak_parts and not 0 <= self.unnamed_bytes <= self.predicted_peak_bytes:
            raise ValueError("peak_parts must not be more than what the step has beside fixed")
        for name, known in (("cost_source", COST_SOURCES), ("rung", RUNGS)):
            if getattr(self, name) not in known:
                names = " or ".join(map(repr, known))
                raise ValueError(f"{name} must be {names}, got {getattr(self, name)!r}")

    @property
    def ledger(self) -> dict[str, int]:
        """What the predicted peak is made of, in bytes by kind; the parts add up to it exactly."""
        unnamed = MemoryKind.EAGER_ALONE if self.peak_parts else MemoryKind.WHOLE_STEP
        return {
            **self.fixed.by_kind,
            MemoryKind.OLDER_GRADIENTS: self.older_gradients_bytes,
            **dict(self.peak_parts),
            unnamed: self.unnamed_bytes,
        }

    @property
    def peak_bytes(self) -> int:
        """The peak of a step as it is known: measured, or else predicted."""
        return self.measured_peak_bytes or self.predicted_peak_bytes

    @property
    def fits(self) -> bool:
        """Whether that is within the budget."""
        return self.peak_bytes <= self.budget_bytes

    @property
    def unnamed_bytes(self) -> int:
        """What of the predicted peak is in no part."""
        known_bytes = self.fixed.total_bytes + self.older_gradients_bytes
        return self.predicted_peak_bytes - known_bytes - sum(size for _, size in self.peak_parts)

    @property
    def overhead(self) -> float:
        """Recomputation time as a share of the baseline step."""
        return self._share_of_step(self.recompute_ns)

    @property
    def lower_bound(self) -> float:
        """The lowest overhead that any plan of the bound's class can have."""
        return self._share_of_step(self.lower_bound_ns)

    @property
    def gap(self) -> float:
        """Share of the recomputation that a better plan of the bound's class might save, 0 to 1."""
        if self.recompute_ns <= self.lower_bound_ns:
            return 0.0
        return (self.recompute_ns - self.lower_bound_ns) / self.recompute_ns

    @property
    def leaves_the_model(self) -> bool:
        """Whether the model fits unchanged, so that nothing is rewritten."""
        return self.recompute_ns == 0 and self.budget_bytes >= self.baseline_peak_bytes

    def as_it_is(self) -> Self:
        """Returns the plan with the unchanged model's peak: eager writes in place less often."""
        peak_bytes = max(self.predicted_peak_bytes, self.baseline_peak_bytes)
        return replace(self, predicted_peak_bytes=peak_bytes)

    @property
    def num_recomputed_ops(self) -> int:
        """Number of recomputed operations."""
        return sum(row.num_recomputed_ops for row in self.rows)

    def _share_of_step(self, time_ns: int) -> float:
        return time_ns / self.baseline_step_ns if self.baseline_step_ns else 0.0
