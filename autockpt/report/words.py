"""Sentences about a plan that the report and warnings share."""

from __future__ import annotations

from autockpt.budget import format_bytes
from autockpt.report.values import PlanValues


def standing_of_minimum(plan: PlanValues) -> str:
    """How sure it is that no smaller budget works."""
    if plan.minimum_bound_bytes >= plan.minimum_peak_bytes:
        return "proven"
    if not plan.minimum_bound_bytes:
        return ""
    return f"at least {format_bytes(plan.minimum_bound_bytes)}"


def cost_warning(plan: PlanValues) -> str:
    """What a plan costs that more than doubles the step, and what a little more memory saves."""
    if plan.overhead <= 1:
        return ""
    text = (
        f"the plan for {format_bytes(plan.budget_bytes)} recomputes {plan.overhead:.0%} of the step"
    )
    cheaper = [
        f"+{format_bytes(budget_bytes - plan.budget_bytes)}: "
        f"+{recompute_ns / plan.baseline_step_ns:.0%}"
        for budget_bytes, recompute_ns in plan.cheaper_budgets
    ]
    if not cheaper:
        return f"{text}. Raise the budget if you can."
    return f"{text}. With a larger budget it is less ({'; '.join(cheaper)})."
