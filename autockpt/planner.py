"""A plan from a model and its inputs: capture, profile, lower, solve, in that order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autockpt.budget import Budget
from autockpt.capture import Capture, capture
from autockpt.errors import BudgetError
from autockpt.lower import Lowered, lower
from autockpt.optimizer_memory import OptimizerMemory
from autockpt.plan import FixedBytes, ModuleRow, Plan
from autockpt.profile import profile
from autockpt.rewrite import region_orders
from autockpt.runtime import PlannedRegion, PlannedRegions
from autockpt_solvers import (
    Compute,
    MemoryTimeline,
    Problem,
    Result,
    Schedule,
    SolveStatus,
    simulate,
)
from autockpt_solvers.methods.attempt import Method
from autockpt_solvers.solve import minimum_budget, solve


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a plan, apart from the model and its inputs."""

    budget: Budget
    optimizer: OptimizerMemory
    loss_fn: Callable[[Any], torch.Tensor] | None
    method: str | Method
    time_limit_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan and what the runtime needs to follow it."""

    plan: Plan
    regions: PlannedRegions


class Planner:
    """Captures and profiles once, then plans for as many budgets as are asked for."""

    def __init__(
        self,
        module: torch.nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        request: Request,
        *,
        accumulates: bool = False,
    ) -> None:
        """Capture, profile and lower.

        Args:
            module: The model.
            forward: Its forward.
            args: Positional inputs.
            kwargs: Keyword inputs.
            request: What is asked.
            accumulates: Whether gradients of an earlier backward stand beside this step's.
        """
        self._request = request
        self._capture = capture(module, forward, args, kwargs, loss_fn=request.loss_fn)
        self._is_measured = not self._capture.is_fake
        nodes = [op.node for graph in self._capture.graphs for op in graph.joint.ops]
        costs = profile(nodes, self._capture.device, measure=self._is_measured)
        lowered = lower(self._capture, costs, request.optimizer)
        self.older_gradients_bytes = self._capture.gradient_bytes if accumulates else 0
        self._lowered = dataclasses.replace(
            lowered, fixed_bytes=lowered.fixed_bytes + self.older_gradients_bytes
        )
        self.baseline_peak_bytes = _baseline_peak_bytes(
            self._capture, self._lowered, request.optimizer
        )

    @property
    def is_fake(self) -> bool:
        """Whether model or inputs hold no data."""
        return self._capture.is_fake

    @property
    def budget_bytes(self) -> int:
        """The budget that was asked for, in bytes."""
        return self._request.budget.resolve(self.baseline_peak_bytes)

    def plan(self, *, held_back_bytes: int = 0) -> Planned:
        """Solve for the budget.

        Args:
            held_back_bytes: Taken off the budget while solving: what a measured step had above its
                prediction.

        Raises:
            BudgetError: No schedule fits; says what the least is and what it is made of.
        """
        request, lowered = self._request, self._lowered
        problem = Problem(
            graph=lowered.graph,
            budget_bytes=max(1, self.budget_bytes - held_back_bytes),
            fixed_bytes=lowered.fixed_bytes,
        )
        result = solve(problem, method=request.method, time_limit_s=request.time_limit_s)
        if result.schedule is None or result.status is SolveStatus.INFEASIBLE:
            raise self._budget_error(result, held_back_bytes)
        timeline = simulate(lowered.graph, result.schedule)
        plan = self._describe(result, result.schedule, timeline)
        orders = region_orders(
            lowered.graph, lowered.origins, result.schedule, len(self._capture.graphs)
        )
        regions = tuple(
            PlannedRegion(
                fingerprint=graph.joint.fingerprint,
                absent_tangents=graph.joint.absent_tangents,
                order=order,
            )
            for graph, order in zip(self._capture.graphs, orders, strict=True)
            if graph.has_backward and not graph.is_outside
        )
        return Planned(
            plan=plan,
            regions=PlannedRegions(
                regions=regions, positions_are_counted=self._capture.positions_are_counted
            ),
        )

    def untouched(self) -> Plan:
        """The plan of leaving the model as it is."""
        problem = Problem(graph=self._lowered.graph, budget_bytes=2**62)
        result = solve(problem, method="none")
        assert result.schedule is not None
        timeline = simulate(self._lowered.graph, result.schedule)
        return self._describe(result, result.schedule, timeline)

    def _describe(self, result: Result, schedule: Schedule, timeline: MemoryTimeline) -> Plan:
        captured, graph = self._capture, self._lowered.graph
        optimizer = self._request.optimizer
        return Plan(
            budget_bytes=self.budget_bytes,
            predicted_peak_bytes=self._lowered.fixed_bytes + timeline.peak_bytes,
            baseline_peak_bytes=self.baseline_peak_bytes,
            minimum_peak_bytes=result.minimum_peak_bytes,
            baseline_step_ns=sum(op.runtime_ns for op in graph.ops),
            recompute_ns=result.recompute_ns,
            lower_bound_ns=result.lower_bound_ns,
            status=result.status,
            method=result.method,
            solve_time_s=result.solve_time_s,
            fixed=FixedBytes(
                parameters_bytes=captured.parameters_bytes,
                buffers_bytes=captured.buffers_bytes,
                optimizer_bytes=optimizer.state_bytes,
                inputs_bytes=captured.inputs_bytes,
            ),
            gradients_bytes=captured.gradient_bytes,
            optimizer_name=optimizer.name,
            optimizer_assumed=optimizer.is_assumed,
            cost_source="measured" if self._is_measured else "roofline",
            device=str(captured.device),
            num_graphs=len(captured.graphs),
            rows=_module_rows(self._lowered, schedule, timeline),
            notes=_notes(captured),
            graph=graph,
            schedule=schedule,
        )

    def _budget_error(self, result: Result, held_back_bytes: int) -> BudgetError:
        lowered = self._lowered
        least = minimum_budget(
            lowered.graph, method=self._request.method, time_limit_s=self._request.time_limit_s
        )
        timeline = simulate(lowered.graph, least.schedule)
        step = least.schedule.steps[timeline.peak_step]
        assert isinstance(step, Compute)
        op = lowered.graph.ops[step.op]
        turn = _turn(lowered, least.schedule)
        phase = "forward" if timeline.peak_step <= turn else "backward"
        place = f"the {phase} of {op.segment}" if op.segment else op.name
        composition = {
            "parameters": self._capture.parameters_bytes,
            "buffers": self._capture.buffers_bytes,
            "optimizer state": self._request.optimizer.state_bytes,
            "inputs": self._capture.inputs_bytes,
            "gradients of an earlier backward": self.older_gradients_bytes,
            **_at_step(lowered, least.schedule, timeline.peak_step),
        }
        minimum = min(
            lowered.fixed_bytes + least.peak_bytes,
            result.minimum_peak_bytes,
        )
        return BudgetError(
            budget_bytes=self.budget_bytes,
            minimum_peak_bytes=minimum + held_back_bytes,
            peak_node=f"{place} ({op.name})" if op.segment else place,
            composition=composition,
        )


def _baseline_peak_bytes(captured: Capture, lowered: Lowered, optimizer: OptimizerMemory) -> int:
    """What the eager step peaks at: its tensors, and the workspace that its operators add."""
    graph = lowered.graph
    none = solve(Problem(graph=graph, budget_bytes=2**62), method="none").schedule
    assert none is not None
    bare = dataclasses.replace(
        graph, ops=tuple(dataclasses.replace(op, workspace_bytes=0) for op in graph.ops)
    )
    workspace_bytes = simulate(graph, none).peak_bytes - simulate(bare, none).peak_bytes
    step_bytes = captured.gradient_bytes + optimizer.step_bytes
    return lowered.fixed_bytes + max(captured.eager_peak_bytes + workspace_bytes, step_bytes)


def _turn(lowered: Lowered, schedule: Schedule) -> int:
    """The step after which the forward is done."""
    required = {op for op, needed in enumerate(lowered.graph.is_required) if needed}
    turn = 0
    for position, step in enumerate(schedule.steps):
        if isinstance(step, Compute) and step.op in required:
            required.discard(step.op)
            turn = position
    return turn


def _at_step(lowered: Lowered, schedule: Schedule, at: int) -> dict[str, int]:
    """Bytes by kind while the op of a step runs."""
    graph = lowered.graph
    live: dict[int, str] = {}
    num_runs = [0] * len(graph.ops)
    for position, step in enumerate(schedule.steps[: at + 1]):
        if not isinstance(step, Compute):
            del live[step.storage]
            continue
        op = graph.ops[step.op]
        num_runs[step.op] += 1
        for storage in op.writes:
            if op.is_backward:
                kind = "gradients" if graph.is_output[storage] else "backward values"
            else:
                kind = "saved activations" if num_runs[step.op] == 1 else "recomputed activations"
            live[storage] = kind
        if position == at:
            totals = dict.fromkeys(
                ("gradients", "saved activations", "recomputed activations", "backward values"), 0
            )
            for storage, kind in live.items():
                totals[kind] += graph.storages[storage].size_bytes
            return totals | {"workspace": op.workspace_bytes}
    raise AssertionError(f"step {at} is no Compute")


def _module_rows(
    lowered: Lowered, schedule: Schedule, timeline: MemoryTimeline
) -> tuple[ModuleRow, ...]:
    graph = lowered.graph
    rows: dict[str, list[int]] = {}
    saved = set(timeline.saved)
    for op in graph.ops:
        if not op.is_backward:
            row = rows.setdefault(op.segment, [0, 0, 0, 0])
            row[0] += sum(graph.storages[s].size_bytes for s in op.writes if s in saved)
    num_runs = [0] * len(graph.ops)
    for step in schedule.steps:
        if isinstance(step, Compute):
            num_runs[step.op] += 1
            if num_runs[step.op] > 1:
                op = graph.ops[step.op]
                row = rows.setdefault(op.segment, [0, 0, 0, 0])
                row[1] += sum(graph.storages[s].size_bytes for s in op.writes)
                row[2] += op.runtime_ns
                row[3] += 1
    return tuple(
        ModuleRow(
            module=module,
            saved_bytes=row[0],
            recomputed_bytes=row[1],
            recompute_ns=row[2],
            num_recomputed_ops=row[3],
        )
        for module, row in rows.items()
        if any(row)
    )


def _notes(captured: Capture) -> tuple[str, ...]:
    notes = []
    if captured.foreign_ops:
        notes.append(
            "outside of the captured graphs, not planned and not counted: "
            + ", ".join(captured.foreign_ops)
        )
    return tuple(notes)
