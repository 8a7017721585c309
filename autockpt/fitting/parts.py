"""Where the memory of a step goes at its peak, kind by kind."""

from __future__ import annotations

from autockpt.devices.device import Device
from autockpt.lower.problem import StepProblem
from autockpt.report.breakdown import peak_parts
from autockpt_solvers import Schedule, simulate


def parts_of(
    problem: StepProblem, schedule: Schedule, device: Device
) -> tuple[tuple[str, int], ...]:
    """Returns the bytes by kind at the peak of a schedule, largest kinds as they are met."""
    timeline = simulate(problem.graph, schedule)
    parts = {
        **problem.fixed.by_kind,
        **peak_parts(problem.graph, schedule, timeline, problem.outside),
    }
    found = [(kind, size_bytes) for kind, size_bytes in parts.items() if size_bytes]
    return (*found, ("context of the driver (assumed)", device.context_bytes))
