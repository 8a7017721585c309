"""Sentences about a plan that the report and warnings share."""

from __future__ import annotations

from autockpt.budget import format_bytes
from autockpt.errors import BudgetError
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


def times_words(cost_source: str, device: str) -> str:
    """Where the times of operations come from, as a sentence."""
    if cost_source == "measured":
        return f"Operation times were measured on {device}."
    if cost_source == "model":
        return f"Operation times for {device} are those of a cost model."
    return f"Operation times are estimated for {device} (a roofline): nothing was run."


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
    return f"{text}. Larger budgets cost less ({'; '.join(cheaper)})."


def many_plans_warning(name: str, num_plans: int, why: str) -> str:
    """What to tell of a model that was planned for many kinds of input."""
    return f"autockpt has planned {name} for {num_plans} kinds of input: {why}."


def leanest_warning(reason: str, error: BudgetError, peak_bytes: int) -> str:
    """What to tell of a step that follows a plan which exceeds the budget.

    Args:
        reason: Why the step needs more memory than a plain one.
        error: Why no plan fits.
        peak_bytes: The peak of the plan.
    """
    return (
        f"{reason}: {error} autockpt follows the leanest plan, whose peak is "
        f"{format_bytes(peak_bytes)}: {format_bytes(peak_bytes - error.budget_bytes)} over the "
        "budget."
    )


def format_time(time_ns: int) -> str:
    """Returns a time in the largest unit that keeps the number at one or more."""
    for unit, size_ns in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if time_ns >= size_ns:
            return f"{time_ns / size_ns:.2f} {unit}"
    return f"{time_ns} ns"
