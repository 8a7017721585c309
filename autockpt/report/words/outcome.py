"""A plan in a few words, for the line that ends the progress."""

from __future__ import annotations

from autockpt.budget import format_bytes
from autockpt.report.values import PlanValues
from autockpt.report.words.against_eager import against_eager
from autockpt.report.words.inert import inert


def outcome(plan: PlanValues) -> str:
    """What was planned and what it costs, in words that follow the model's name."""
    budget, peak = format_bytes(plan.budget_bytes), format_bytes(plan.peak_bytes)
    if plan.leaves_the_model:
        return f"fits in {budget} as it is: peak {peak}"
    return f"planned for {budget}: peak {peak} {_beside(plan)}"


def described(plan: PlanValues) -> str:
    """The figures of a plan on one line, for its `repr`."""
    budget, peak = format_bytes(plan.budget_bytes), format_bytes(plan.peak_bytes)
    place = f"{inert(plan.device)}, rung {plan.rung!r}"
    return f"budget {budget}, peak {peak} {_beside(plan)}, {place}"


def _beside(plan: PlanValues) -> str:
    return against_eager(plan.peak_bytes, plan.baseline_peak_bytes, plan.overhead, has_share=False)
