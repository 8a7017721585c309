"""Makes the curve of a planned step, from the graph that the plan has."""

from __future__ import annotations

from collections.abc import Sequence

from autockpt import progress
from autockpt.budget import Budget, parse_budget
from autockpt.report.curve.points import CurvePoint, SimplePoint
from autockpt.report.curve.value import Curve
from autockpt.report.values import PlanValues
from autockpt_solvers import ComputeGraph, Method, Result, budget_curve

NUM_POINTS = 20
# Enough for twenty points of a transformer of twelve layers.
TIME_LIMIT_S = 8.0


def curve_of(
    plan: PlanValues,
    graph: ComputeGraph | None,
    budgets: int | Sequence[int | str | Budget] | None,
    *,
    method: str | Method = "auto",
    time_limit_s: float | None = None,
) -> Curve:
    """Search for the curve of a plan's step; see `Plan.curve`.

    Args:
        plan: The plan.
        graph: Its graph.
        budgets: The budgets, or how many to choose.
        method: The solver's method.
        time_limit_s: Time limit of the search.

    Raises:
        TypeError: A budget has the wrong type.
        ValueError: The plan has no graph or is for several calls, or a budget cannot be used.
    """
    if graph is None:
        raise ValueError(
            "this plan has no graph, so its curve cannot be searched for; give one that optimize "
            f"or autockpt.plan returned, on another rung than {plan.rung!r}"
        )
    if plan.fixed.other_calls_bytes:
        raise ValueError(
            "this plan is for several calls that share a backward, and a curve is for one call; "
            "use the plan that autockpt.plan returns for one call"
        )
    limit_s = TIME_LIMIT_S if time_limit_s is None else time_limit_s
    wanted = checked_budgets(budgets)
    asked = (
        wanted if isinstance(wanted, int) else [b.resolve(plan.baseline_peak_bytes) for b in wanted]
    )
    step_ns = graph.total_runtime_ns
    watch = progress.search("searching for the curve", limit_s=limit_s, step_ns=step_ns)
    fixed_bytes = plan.fixed.total_bytes + plan.older_gradients_bytes
    found = budget_curve(
        graph,
        asked,
        fixed_bytes=fixed_bytes,
        most_bytes=plan.baseline_peak_bytes,
        method=method,
        time_limit_s=limit_s,
        watch=watch,
    )

    def share(time_ns: int) -> float:
        return time_ns / step_ns if step_ns else 0.0

    return Curve(
        points=tuple(
            _point(budget_bytes, result, share(result.recompute_ns), share(result.lower_bound_ns))
            for budget_bytes, result in zip(found.budgets, found.results, strict=True)
        ),
        minimum_peak_bytes=fixed_bytes + found.minimum.peak_bytes,
        minimum_bound_bytes=fixed_bytes + found.minimum.lower_bound_bytes,
        baseline_peak_bytes=plan.baseline_peak_bytes,
        baseline_step_ns=step_ns,
        simple=tuple(
            SimplePoint(
                method=simple.method,
                predicted_peak_bytes=simple.peak_bytes,
                recompute_ns=simple.recompute_ns,
                overhead=share(simple.recompute_ns),
            )
            for simple in found.simple
        ),
        device=plan.device,
        cost_source=plan.cost_source,
        rung=plan.rung,
        solve_time_s=max(result.solve_time_s for result in found.results),
        notes=plan.notes,
    )


def checked_budgets(
    budgets: int | Sequence[int | str | Budget] | None,
) -> int | tuple[Budget, ...]:
    """How many budgets to choose, or the budgets.

    Raises:
        TypeError: It is neither.
        ValueError: A number is not positive, there is none, or a text is not a budget.
    """
    if budgets is None:
        return NUM_POINTS
    if isinstance(budgets, int) and not isinstance(budgets, bool):
        if budgets < 1:
            raise ValueError(f"budgets is {budgets}; it must be 1 or more, or a list of budgets")
        return budgets
    if isinstance(budgets, bool | str | Budget) or not isinstance(budgets, Sequence):
        raise TypeError(
            f'budgets is {budgets!r}; it must be a list of budgets, such as ["8GB", "60%"], or '
            "the number of budgets to choose"
        )
    if not budgets:
        raise ValueError("budgets is empty; give at least one budget, or how many to choose")
    return tuple(parse_budget(budget) for budget in budgets)


def _point(budget_bytes: int, result: Result, overhead: float, lower_bound: float) -> CurvePoint:
    if result.schedule is None:
        return CurvePoint(budget_bytes=budget_bytes, status=result.status, method=result.method)
    return CurvePoint(
        budget_bytes=budget_bytes,
        status=result.status,
        method=result.method,
        predicted_peak_bytes=result.peak_bytes,
        recompute_ns=result.recompute_ns,
        overhead=overhead,
        lower_bound_ns=result.lower_bound_ns,
        lower_bound=lower_bound,
    )
