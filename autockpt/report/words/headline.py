"""The answer of a plan in a line, and whether it is worth it."""

from __future__ import annotations

from dataclasses import dataclass

from autockpt.budget import format_bytes, sufficient_budget
from autockpt.report.kinds import MemoryKind
from autockpt.report.values import PlanValues
from autockpt.report.words.against_eager import against_eager

# A plan is worth it if it saves more than this share of the peak for less than that more time.
_WORTH_SAVED, _WORTH_TIME = 0.5, 0.3
_LEAN = 0.5  # the share of the peak from which on what no plan can save is what counts
_ROUND_BYTES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a plan is worth it.

    Attributes:
        word: In a word or two.
        reason: Why, in a sentence.
        advice: What else would help; empty if nothing is needed.
    """

    word: str
    reason: str
    advice: str = ""


def headline(plan: PlanValues) -> str:
    """Returns whether a plan fits, its peak, its cost and how good that is, on one line."""
    budget = as_asked(plan.budget_bytes)
    peak_bytes = plan.peak_bytes
    peak = format_bytes(peak_bytes)
    if not plan.fits:
        return f"does not fit {budget}: needs {peak}, +{plan.overhead:.1%} time"
    if plan.leaves_the_model:
        return f"fits {budget} as it is: peak {peak}, nothing is recomputed"
    beside = against_eager(peak_bytes, plan.baseline_peak_bytes, plan.overhead)
    standing = _standing(plan) if plan.recompute_ns else "nothing is recomputed"
    return f"fits {budget}: peak {peak} {beside}, {standing}"


def verdict(plan: PlanValues) -> Verdict:
    """Returns whether a plan is worth it, and otherwise what else to do."""
    peak_bytes = plan.peak_bytes
    if not plan.fits:
        return Verdict(
            word="too large",
            reason="the leanest plan that was found exceeds the budget.",
            advice=_advice(plan),
        )
    if plan.leaves_the_model:
        return Verdict(word="nothing to do", reason="the model fits this budget unchanged.")
    saved = 1 - peak_bytes / max(1, plan.baseline_peak_bytes)
    if not plan.recompute_ns:
        reason = f"needs {saved:.0%} less than eager PyTorch, and nothing is recomputed."
        return Verdict(word="free", reason=reason)
    reason = f"saves {saved:.0%} of the memory for {plan.overhead:.1%} more time."
    if plan.overhead >= _WORTH_TIME:
        return Verdict(word="expensive", reason=reason, advice=_advice(plan))
    if saved > _WORTH_SAVED:
        return Verdict(word="worth it", reason=reason)
    more = "A smaller budget saves more." if _has_room(plan) else _advice(plan)
    return Verdict(word="modest", reason=reason, advice=more)


def _advice(plan: PlanValues) -> str:
    """What lowers the peak beside recomputation, by what the peak is made of."""
    kept = {
        "parameters, gradients and optimizer state": plan.fixed.parameters_bytes
        + plan.fixed.optimizer_bytes
        + dict(plan.peak_parts).get(MemoryKind.GRADIENTS, 0)
    }
    share = sum(kept.values()) / max(1, plan.predicted_peak_bytes)
    if share >= _LEAN:
        return (
            f"{share:.0%} of the peak is parameters, gradients and optimizer state, which no plan "
            "saves: a leaner optimizer, bf16, LoRA or sharding (FSDP) lowers it."
        )
    step_bytes = dict(plan.peak_parts).get(MemoryKind.OPTIMIZER_WORKSPACE, 0)
    if step_bytes > (1 - _LEAN) * plan.predicted_peak_bytes:
        return "The peak is the optimizer's step: fused=True, or a leaner optimizer, lowers it."
    return "A smaller batch with gradient accumulation, or bf16, lowers activations."


def _has_room(plan: PlanValues) -> bool:
    return bool(plan.minimum_bound_bytes) and plan.minimum_peak_bytes < 0.8 * plan.budget_bytes


def as_asked(budget_bytes: int) -> str:
    """A budget in the unit that somebody typed: `8 GB (7.45 GiB)` if it is round in that."""
    for size, unit in _ROUND_BYTES:
        if budget_bytes >= size:
            is_round = budget_bytes % (size // 1000) == 0 and budget_bytes // size < 1000
            if is_round and budget_bytes % 2**20:
                return f"{budget_bytes / size:g} {unit} ({format_bytes(budget_bytes)})"
            break
    return format_bytes(budget_bytes)


def _standing(plan: PlanValues) -> str:
    if plan.status == "optimal":
        return "proven to be the best possible"
    if not plan.lower_bound_ns:
        return "no bound is proven"
    return f"at most {plan.overhead - plan.lower_bound:.1%} above the best possible"


_OWN_OPTIMIZER = ", optimizer=optimizer"


def optimizer_argument(plan: PlanValues) -> str:
    """Returns the optimizer as a further argument of a call; nothing if you named none."""
    name = plan.optimizer_name
    if plan.optimizer_assumed or not name:
        return ""
    # Names are in lower case; an optimizer of another library has none, and you have it at hand.
    return f', optimizer="{name}"' if name.isidentifier() and name.islower() else _OWN_OPTIMIZER


def tries(
    plan: PlanValues, nearby: tuple[tuple[int, int], ...], command: str | None
) -> list[tuple[str, str]]:
    """Returns lines to paste, each with what it is for.

    Args:
        plan: The plan.
        nearby: Other budgets with their recomputation, in bytes and ns.
        command: The command line up to its budget, without the name of the command; None in Python.
    """
    budget = sufficient_budget(plan.budget_bytes)
    more = optimizer_argument(plan)
    lines = [(f'autockpt.optimize(model, "{budget}"{more})', "train with this plan")]
    if plan.leaves_the_model:
        return lines if command is None else [(f"autockpt pareto {command}", "smaller budgets")]
    larger = [point for point in nearby if point[0] > plan.budget_bytes]
    if larger and plan.baseline_step_ns:
        budget_bytes, recompute_ns = min(larger, key=lambda point: point[0])
        share = recompute_ns / plan.baseline_step_ns
        text = sufficient_budget(budget_bytes)
        line = f'autockpt.optimize(model, "{text}"{more})'
        if command is not None:
            line = f"autockpt plan {command} --budget {text}"
        lines.append((line, f"+{share:.1%} time instead of +{plan.overhead:.1%}"))
    if command is not None and not larger:
        lines.append((f"autockpt pareto {command}", "what other budgets cost"))
    if command is not None:
        lines.append((f"autockpt verify {command} --budget {budget}", "run it: bits, peak, time"))
    return lines
