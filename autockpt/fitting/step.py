"""A captured step on a device: its peak and its time, as it is and with a plan."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from autockpt.devices.device import Device
from autockpt.fitting.layers import checkpointed_layers
from autockpt.lower.problem import StepProblem
from autockpt_solvers import (
    ComputeGraph,
    Problem,
    Schedule,
    baseline_schedule,
    budget_curve,
    simulate,
    solve,
)

_QUICK_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a plan costs."""

    peak_bytes: int
    recompute_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedStep:
    """A captured step.

    Attributes:
        problem: What was captured.
        device: The device.
        num_trained: Number of values in the parameters that are trained.
        num_tokens: Tokens of all sequences; 0 if there are none.
    """

    problem: StepProblem
    device: Device
    num_trained: int
    num_tokens: int = 0

    def with_problem(self, problem: StepProblem) -> SizedStep:
        """The same device for another step."""
        return dataclasses.replace(self, problem=problem)

    @property
    def peak_bytes(self) -> int:
        """Peak of the step as it is."""
        return self.problem.baseline_peak_bytes

    def peak_bytes_of(self, graph: ComputeGraph) -> int:
        """Peak of a graph of which nothing runs twice."""
        return simulate(graph, baseline_schedule(graph)).peak_bytes

    @property
    def optimizer_ns(self) -> int:
        """Time of the optimizer's step: it reads and writes parameters and state once."""
        fixed = self.problem.fixed
        moved = 2 * fixed.parameters_bytes + 2 * fixed.optimizer_bytes
        moved += self.problem.gradients_bytes
        share = self.device.efficiency.elementwise
        return int(moved / (self.device.bytes_per_s * share) * 1e9)

    def step_ns(self, recompute_ns: int = 0) -> int:
        """Time of a step that runs some operations again."""
        return self.problem.graph.total_runtime_ns + recompute_ns + self.optimizer_ns

    def overhead(self, recompute_ns: int) -> float:
        """Recomputation as a share of all operations."""
        return recompute_ns / max(1, self.problem.graph.total_runtime_ns)

    @property
    def optimizer_peak_bytes(self) -> int:
        """What the optimizer's step needs, which no plan changes."""
        last = self.problem.graph.ops[-1]
        gradients_bytes = sum(self.problem.graph.storages[s].size_bytes for s in last.reads)
        return self.problem.fixed_bytes + gradients_bytes + last.workspace_bytes

    def planned(self, budget_bytes: int) -> Cost | None:
        """What a plan for a budget costs, after a short search; None if none is found."""
        problem = Problem(
            graph=self.problem.graph,
            budget_bytes=budget_bytes,
            fixed_bytes=self.problem.fixed_bytes,
        )
        result = solve(problem, time_limit_s=_QUICK_S)
        if result.schedule is None:
            return None
        return Cost(peak_bytes=result.peak_bytes, recompute_ns=result.recompute_ns)

    def layered(self) -> tuple[Schedule, int, int] | None:
        """Checkpointing every layer: the schedule, its peak and its recomputation."""
        schedule = checkpointed_layers(self.problem.graph)
        if schedule is None:
            return None
        timeline = simulate(self.problem.graph, schedule)
        peak_bytes = self.problem.fixed_bytes + timeline.peak_bytes
        return schedule, peak_bytes, timeline.recompute_ns


def planned_with_other_optimizers(steps: list[SizedStep], budget_bytes: int) -> list[Cost | None]:
    """What plans cost for steps that differ in their optimizer alone: one search serves them all.

    To the rest of a step, an optimizer that keeps less is a larger budget.
    """
    if not steps:
        return []
    *ops, last = steps[0].problem.graph.ops
    graph = dataclasses.replace(
        steps[0].problem.graph, ops=(*ops, dataclasses.replace(last, workspace_bytes=0))
    )
    rooms = [max(0, budget_bytes - step.problem.fixed_bytes) for step in steps]
    curve = budget_curve(graph, rooms, simple=(), time_limit_s=_QUICK_S)
    found = dict(zip(curve.budgets, curve.results, strict=True))
    costs: list[Cost | None] = []
    for step, room in zip(steps, rooms, strict=True):
        result = found[room]
        if result.schedule is None or step.optimizer_peak_bytes > budget_bytes:
            costs.append(None)
        else:
            peak_bytes = step.problem.fixed_bytes + result.peak_bytes
            peak_bytes = max(peak_bytes, step.optimizer_peak_bytes)
            costs.append(Cost(peak_bytes=peak_bytes, recompute_ns=result.recompute_ns))
    return costs
