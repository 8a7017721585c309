"""What a plan comes to, in a sentence."""

from __future__ import annotations

from dataclasses import dataclass

from autockpt.report.page.formats import format_bytes, format_share
from autockpt.report.values import PlanValues
from autockpt.report.words.headline import as_asked, verdict
from autockpt.report.words.sentences import cost_warning


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The answer of a plan.

    Attributes:
        title: Whether it fits, in a few words.
        answer: Its peak and its cost.
        standing: How good that is.
        verdict: Whether it is worth it, and otherwise what else to do.
        warning: What is dear about it; empty if nothing is.
    """

    title: str
    answer: str
    standing: str
    verdict: str
    warning: str


def headline(plan: PlanValues) -> Headline:
    """Returns the answer of a plan."""
    budget = as_asked(plan.budget_bytes)
    peak_bytes = plan.peak_bytes
    title = f"Fits {budget}" if plan.fits else f"Needs {format_bytes(peak_bytes)}, over {budget}"
    if plan.leaves_the_model:
        title += " as it is"
    peak = f"peak {format_bytes(peak_bytes)}"
    if plan.recompute_ns and plan.baseline_peak_bytes:
        less = format_share(peak_bytes / plan.baseline_peak_bytes - 1, signed=True)
        answer = (
            f"{peak} instead of {format_bytes(plan.baseline_peak_bytes)} ({less}), "
            f"for {format_share(plan.overhead, signed=True)} time"
        )
    else:
        answer = f"{peak}, with nothing recomputed"
    judged = verdict(plan)
    warning = cost_warning(plan)
    return Headline(
        title=title,
        answer=answer,
        standing=_standing(plan),
        verdict=f"{judged.word.capitalize()}: {judged.reason} {judged.advice}".rstrip(),
        warning=warning[:1].upper() + warning[1:],
    )


def _standing(plan: PlanValues) -> str:
    if not plan.recompute_ns:
        return "no plan costs less"
    if plan.status == "optimal":
        return "proven: no plan of its class costs less"
    if not plan.lower_bound_ns:
        return "no lower bound is proven"
    gap = format_share(plan.overhead - plan.lower_bound)
    return f"at most {gap} of a step above the best possible"
