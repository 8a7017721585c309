"""Sentences about a plan that the report and warnings share."""

from __future__ import annotations

from autockpt.budget import format_bytes
from autockpt.report.values import PlanValues


def minimum_words(plan: PlanValues) -> tuple[str, str]:
    """What to call the smallest budget of a plan, and how sure it is that no smaller one works."""
    bound_bytes = plan.minimum_bound_bytes
    if not bound_bytes:
        return "minimum", "not searched for"
    # On this rung the bound holds for plans that checkpoint calls, and a capture may beat them.
    how = " by checkpointing calls" if plan.rung == "checkpoint" else ""
    if bound_bytes < plan.minimum_peak_bytes:
        return "least found", f"at least {format_bytes(bound_bytes)}{how}"
    return "minimum", f"proven{how and f',{how}'}"


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
