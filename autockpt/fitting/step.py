"""A captured step on a device: its peak and its time, as it is and with a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from autockpt.devices.device import Device
from autockpt.fitting.layers import checkpointed_layers
from autockpt.ladder.graphs import GraphPlanner
from autockpt.lower.problem import StepProblem
from autockpt.report.parts import FixedBytes
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
    """What a schedule costs.

    Attributes:
        peak_bytes: Peak of the step.
        recompute_ns: Time of what runs again.
        schedule: The schedule; None for the step as it is.
    """

    peak_bytes: int
    recompute_ns: int
    schedule: Schedule | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedStep:
    """A captured step.

    Attributes:
        problem: What was captured.
        device: The device.
        num_trained: Number of values in the parameters that are trained.
        trained_bytes: Their bytes.
        eager_only_bytes: What eager's forward and backward need beyond those of the graph, whose
            backward overwrites some values.
        num_tokens: Tokens of all sequences; 0 if there are none.
    """

    problem: StepProblem
    device: Device
    num_trained: int
    trained_bytes: int
    eager_only_bytes: int = 0
    num_tokens: int = 0

    @classmethod
    def of(
        cls, planner: GraphPlanner, *, num_trained: int, trained_bytes: int, num_tokens: int
    ) -> SizedStep:
        """A step that was captured for a device."""
        device = planner.step.request.device
        assert device is not None
        graph_bytes = _peak_bytes(without_optimizer(planner.problem.graph))
        return cls(
            problem=planner.problem,
            device=device,
            num_trained=num_trained,
            trained_bytes=trained_bytes,
            eager_only_bytes=planner.running_bytes - graph_bytes,
            num_tokens=num_tokens,
        )

    def changed(
        self,
        *,
        graph: ComputeGraph | None = None,
        fixed: FixedBytes | None = None,
        share: float = 1.0,
    ) -> SizedStep:
        """The step with another graph of the same operations, or other fixed bytes.

        Args:
            graph: The graph.
            fixed: What the whole step needs.
            share: The size of its batch as a share of this one's.
        """
        problem = dataclasses.replace(
            self.problem, graph=graph or self.problem.graph, fixed=fixed or self.problem.fixed
        )
        graph = problem.graph
        eager_only_bytes = int(self.eager_only_bytes * share)
        running_bytes = _peak_bytes(without_optimizer(graph)) + eager_only_bytes
        peak_bytes = problem.fixed_bytes + max(running_bytes, _optimizer_bytes(graph))
        return dataclasses.replace(
            self,
            problem=dataclasses.replace(problem, baseline_peak_bytes=peak_bytes),
            eager_only_bytes=eager_only_bytes,
            num_tokens=int(self.num_tokens * share),
        )

    @property
    def peak_bytes(self) -> int:
        """Peak of the step as it is."""
        return self.problem.baseline_peak_bytes

    @property
    def as_it_is(self) -> Cost:
        """What the step costs with nothing recomputed."""
        return Cost(peak_bytes=self.peak_bytes, recompute_ns=0)

    @property
    def optimizer_ns(self) -> int:
        """Time of the optimizer's step: it reads and writes parameters and state that it trains."""
        moved = 2 * self.trained_bytes + 2 * self.problem.fixed.optimizer_bytes
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
    def least_bytes(self) -> int:
        """What the optimizer's step needs, which no plan changes."""
        return self.problem.fixed_bytes + _optimizer_bytes(self.problem.graph)

    def cost_of(self, schedule: Schedule) -> Cost:
        """What a schedule costs, which may be of another step with the same operations."""
        timeline = simulate(self.problem.graph, schedule)
        return Cost(
            peak_bytes=self.problem.fixed_bytes + timeline.peak_bytes,
            recompute_ns=timeline.recompute_ns,
            schedule=schedule,
        )

    def cheapest(self, budget_bytes: int, schedules: Iterable[Schedule]) -> Cost | None:
        """The schedule that recomputes the least of those that fit; None if none does."""
        if self.peak_bytes <= budget_bytes:
            return self.as_it_is
        if self.least_bytes > budget_bytes:
            return None
        costs = [self.cost_of(schedule) for schedule in schedules]
        fitting = [cost for cost in costs if cost.peak_bytes <= budget_bytes]
        return min(fitting, key=lambda c: (c.recompute_ns, c.peak_bytes), default=None)

    def searched(self, budget_bytes: int) -> tuple[Schedule, ...]:
        """What a short search finds for a budget, and the checkpointing of every layer."""
        if self.peak_bytes <= budget_bytes or self.least_bytes > budget_bytes:
            return ()
        problem = Problem(
            graph=self.problem.graph,
            budget_bytes=budget_bytes,
            fixed_bytes=self.problem.fixed_bytes,
        )
        found = (solve(problem, time_limit_s=_QUICK_S).schedule, self.layered())
        return tuple(schedule for schedule in found if schedule is not None)

    def planned(self, budget_bytes: int) -> Cost | None:
        """What a plan for a budget costs, after a short search; None if none is found."""
        return self.cheapest(budget_bytes, self.searched(budget_bytes))

    def layered(self) -> Schedule | None:
        """The schedule of checkpointing every layer; None if there are no layers."""
        return checkpointed_layers(self.problem.graph)


def searched_together(steps: list[SizedStep], budget_bytes: int) -> tuple[Schedule, ...]:
    """Plans for steps that differ in their optimizer alone: one search serves them all.

    To the rest of a step, an optimizer that keeps less is a larger budget.
    """
    tight = [step for step in steps if step.least_bytes <= budget_bytes < step.peak_bytes]
    if not tight:
        return ()
    graph = without_optimizer(tight[0].problem.graph)
    rooms = sorted({budget_bytes - step.problem.fixed_bytes for step in tight})
    curve = budget_curve(graph, rooms, simple=(), time_limit_s=2 * _QUICK_S)  # for all of them
    return tuple(result.schedule for result in curve.results if result.schedule is not None)


def without_optimizer(graph: ComputeGraph) -> ComputeGraph:
    """Returns a step whose optimizer allocates nothing; it is the last op."""
    *ops, last = graph.ops
    return dataclasses.replace(graph, ops=(*ops, dataclasses.replace(last, workspace_bytes=0)))


def _optimizer_bytes(graph: ComputeGraph) -> int:
    """What is in memory of a graph while the optimizer steps."""
    kept_bytes = sum(graph.storages[storage].size_bytes for storage in graph.outputs)
    return kept_bytes + graph.ops[-1].workspace_bytes


def _peak_bytes(graph: ComputeGraph) -> int:
    """Peak of a graph of which nothing runs twice."""
    return simulate(graph, baseline_schedule(graph)).peak_bytes
