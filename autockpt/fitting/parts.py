"""Where the memory of a step goes at its peak, kind by kind."""

from __future__ import annotations

from autockpt.fitting.step import SizedStep
from autockpt.report.kinds import MemoryKind
from autockpt.report.plan import Plan
from autockpt.report.timeline.breakdown import peak_parts
from autockpt_solvers import baseline_schedule, simulate


def parts_of(step: SizedStep, plan: Plan | None) -> tuple[tuple[str, int], ...]:
    """Returns the bytes by kind at the peak of a step; they add up to it.

    Args:
        step: The step.
        plan: The plan that it follows; None for the step as it is.
    """
    problem = step.problem
    schedule = None if plan is None else plan.schedule
    peak_bytes = step.peak_bytes if plan is None else plan.predicted_peak_bytes
    schedule = schedule or baseline_schedule(problem.graph)
    timeline = simulate(problem.graph, schedule)
    parts = {
        **problem.fixed.by_kind,
        MemoryKind.OLDER_GRADIENTS: problem.older_gradients_bytes,
        **peak_parts(problem.graph, schedule, timeline, problem.outside),
    }
    # Eager's own peak, while the graph's backward overwrites some values.
    parts[MemoryKind.EAGER_ALONE] = peak_bytes - sum(parts.values())
    return tuple((kind, size_bytes) for kind, size_bytes in parts.items() if size_bytes)
