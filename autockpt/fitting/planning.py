"""The plan for a step, the other ways to run it, and what changes would bring.

Steps that differ in their optimizer, their loss or their batch have the same operations, so a plan
that is found for one of them can run in the others. Each takes the cheapest that fits it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from autockpt.errors import BudgetError
from autockpt.fitting.batches import Batches
from autockpt.fitting.changes import of_loss, of_optimizer
from autockpt.fitting.logits import logits_of
from autockpt.fitting.step import Cost, SizedStep, searched_together
from autockpt.fitting.value import Change, Way, WayKind
from autockpt.ladder.graphs import GraphPlanner
from autockpt.report.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What was found for a step.

    Attributes:
        plan: The plan for the budget; None if none fits.
        minimum_bytes: The smallest budget that a plan is known for.
        minimum_bound_bytes: No plan of its class needs less.
        changes: What changes bring that leave the operations as they are.
    """

    plan: Plan | None
    minimum_bytes: int
    minimum_bound_bytes: int
    changes: tuple[Change, ...]


def planned(
    planner: GraphPlanner,
    step: SizedStep,
    batches: Batches | None,
    size: int | None,
    budget_bytes: int,
) -> Planned:
    """Plan a step, and what differs from it in its optimizer, its loss or its batch.

    Args:
        planner: The captured step.
        step: The same, sized.
        batches: What other batches need, if that is known.
        size: The batch.
        budget_bytes: The budget.
    """
    plan, error = _plan(planner)
    optimizers = list(of_optimizer(step))
    others = list(of_loss(step, logits_of(planner)))
    if batches is not None and size is not None and size > 1:
        others.append((f"a batch of {size // 2}", batches.step(size // 2)))
    found = [
        step.layered(),
        None if plan is None else plan.schedule,
        *searched_together([step, *(changed for _, changed in optimizers)], budget_bytes),
        *(schedule for _, other in others for schedule in other.searched(budget_bytes)),
    ]
    schedules = [schedule for schedule in found if schedule is not None]
    best = step.cheapest(budget_bytes, schedules)
    recompute_ns = math.inf if plan is None else plan.recompute_ns
    if best is not None and best.schedule is not None and best.recompute_ns < recompute_ns:
        made = planner.problem.following(
            best.schedule,
            time_limit_s=planner.step.request.time_limit_s,
            solving=planner.step.solving,
        )
        plan = made if plan is None else _with_bounds_of(made, plan)
    return Planned(
        plan=plan,
        minimum_bytes=plan.minimum_peak_bytes if plan else error.minimum_peak_bytes,
        minimum_bound_bytes=plan.minimum_bound_bytes if plan else error.lower_bound_bytes,
        changes=tuple(
            change(what, changed, changed.cheapest(budget_bytes, schedules))
            for what, changed in (*optimizers, *others)
        ),
    )


def _plan(planner: GraphPlanner) -> tuple[Plan | None, BudgetError]:
    """The plan for the budget, or why there is none."""
    try:
        made = planner.plan().plan
    except BudgetError as error:
        return None, error
    nothing = BudgetError(budget_bytes=made.budget_bytes, minimum_peak_bytes=0)
    return (made.as_it_is() if made.leaves_the_model else made), nothing


def _with_bounds_of(plan: Plan, searched: Plan) -> Plan:
    """A plan with what the search for a worse one has proven."""
    return dataclasses.replace(
        plan,
        lower_bound_ns=min(plan.recompute_ns, max(plan.lower_bound_ns, searched.lower_bound_ns)),
        minimum_peak_bytes=min(plan.minimum_peak_bytes, searched.minimum_peak_bytes),
        minimum_bound_bytes=max(plan.minimum_bound_bytes, searched.minimum_bound_bytes),
    )


def ways(
    step: SizedStep,
    plan: Plan | None,
    batches: Batches | None,
    budget_bytes: int,
    size: int | None,
) -> tuple[Way, ...]:
    """Ways to run a step: as it is, with every layer checkpointed, with the plan."""

    def way(name: WayKind, cost: Cost, largest: int | None) -> Way:
        fits = cost.peak_bytes <= budget_bytes
        if largest is not None and fits:
            # Other batches are predicted; this one was recorded.
            largest = max(largest, size or 0)
        return Way(
            name=name,
            peak_bytes=cost.peak_bytes,
            fits=fits,
            step_ns=step.step_ns(cost.recompute_ns),
            overhead=step.overhead(cost.recompute_ns),
            largest_batch=largest,
        )

    largest = None if batches is None else batches.largest_as_it_is(budget_bytes)
    found = [way(WayKind.AS_IT_IS, step.as_it_is, largest)]
    layered = step.layered()
    if layered is not None:
        largest = None if batches is None else batches.largest_layered(budget_bytes)
        found.append(way(WayKind.LAYERED, step.cost_of(layered), largest))
    if plan is not None:
        largest = None if batches is None else batches.largest_planned(budget_bytes)
        cost = Cost(peak_bytes=plan.predicted_peak_bytes, recompute_ns=plan.recompute_ns)
        found.append(way(WayKind.PLANNED, cost, largest))
    return tuple(found)


def change(what: str, step: SizedStep, cost: Cost | None) -> Change:
    """What a change brings.

    Args:
        what: The change, to read.
        step: The step with it.
        cost: What the step costs then; None if no plan fits.
    """
    return Change(
        what=what,
        peak_bytes=step.peak_bytes,
        planned_bytes=None if cost is None else cost.peak_bytes,
        overhead=None if cost is None else step.overhead(cost.recompute_ns),
        step_ns=None if cost is None else step.step_ns(cost.recompute_ns),
    )


def helpful(changes: list[Change], step: SizedStep, plan: Plan | None) -> tuple[Change, ...]:
    """The changes that need less memory or less time, those that fit as they are first.

    If nothing fits as it is, a change that fits helps at any cost.
    """
    now = math.inf if plan is None else plan.overhead
    useful = [
        each
        for each in changes
        if each.peak_bytes < step.peak_bytes or (now and each.overhead == 0.0)
        if each.overhead is None or each.overhead <= now
    ]
    return tuple(
        sorted(
            useful,
            key=lambda each: (
                each.planned_bytes is None,
                each.overhead if each.overhead is not None else 0.0,
                each.peak_bytes,
            ),
        )
    )
