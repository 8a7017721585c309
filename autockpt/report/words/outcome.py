"""A plan in a few words, for the line that ends the progress."""

from __future__ import annotations

from autockpt.budget import format_bytes
from autockpt.report.values import PlanValues
from autockpt.report.words.inert import inert


def outcome(plan: PlanValues) -> str:
    """What was planned and what it costs, in words that follow the model's name."""
    budget, eager = format_bytes(plan.budget_bytes), format_bytes(plan.baseline_peak_bytes)
    peak_bytes = plan.measured_peak_bytes or plan.predicted_peak_bytes
    if plan.leaves_the_model:
        return f"fits in {budget} as it is: peak {format_bytes(peak_bytes)}"
    return (
        f"planned for {budget}: peak {format_bytes(peak_bytes)} (eager {eager}), "
        f"+{plan.overhead:.1%} time"
    )


def described(plan: PlanValues) -> str:
    """The figures of a plan on one line, for its `repr`."""
    peak_bytes = plan.measured_peak_bytes or plan.predicted_peak_bytes
    return (
        f"budget {format_bytes(plan.budget_bytes)}, peak {format_bytes(peak_bytes)} "
        f"(eager {format_bytes(plan.baseline_peak_bytes)}), +{plan.overhead:.1%} time, "
        f"{inert(plan.device)}, rung {plan.rung!r}"
    )
