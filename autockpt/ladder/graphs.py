"""A plan from a model and its inputs: capture, profile, lower, solve, in that order."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autockpt.budget import Budget
from autockpt.capture.blocks import FailedBlocks, finer_blocks, outermost_blocks
from autockpt.capture.captured import Capture, CapturedGraph
from autockpt.capture.step import capture
from autockpt.errors import CaptureError
from autockpt.ladder.planned import Planned
from autockpt.lower.graph import Lowered, lower
from autockpt.lower.orders import region_orders
from autockpt.lower.problem import StepProblem
from autockpt.profile.operators import profile
from autockpt.profile.optimizer import OptimizerMemory
from autockpt.report.parts import FixedBytes
from autockpt.report.plan import Plan
from autockpt.request import Dimensions, Request
from autockpt.rewrite.align import signatures
from autockpt.rewrite.runtime import PlannedRegion, PlannedRegions
from autockpt.verify.live_bytes import distinct_bytes
from autockpt_solvers import Problem, simulate
from autockpt_solvers.api import solve


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
        in_pieces: bool = False,
        varying: Dimensions = frozenset(),
        buckets_bytes: int = 0,
        in_blocks: bool = False,
    ) -> None:
        """Capture, profile and lower.

        Args:
            module: The model.
            forward: Its forward.
            args: Positional inputs.
            kwargs: Keyword inputs.
            request: What is asked.
            accumulates: Whether gradients of an earlier backward stand beside this step's.
            in_pieces: Cut the graphs so that gradients are let go on the way.
            varying: Dimensions of inputs that may be smaller when the plan is followed.
            buckets_bytes: What data parallelism holds beside the gradients to reduce them.
            in_blocks: Capture the largest submodules that can be, one by one.
        """
        self._request = request
        self.accumulates = accumulates
        self._in_pieces = in_pieces
        self._varying = varying
        captured = functools.partial(
            capture,
            module,
            forward,
            args,
            kwargs,
            loss_fn=request.loss_fn,
            accumulates=accumulates,
            in_pieces=in_pieces,
        )
        self._blocks: tuple[str, ...] = ()
        if in_blocks:
            self._capture, self._blocks = _captured_in_blocks(module, captured)
        else:
            self._capture = captured()
        self._is_measured = not self._capture.is_fake
        nodes = [op.node for graph in self._capture.graphs for op in graph.joint.ops]
        costs = profile(nodes, self._capture.device, measure=self._is_measured)
        optimizer = request.optimizer
        if len(self._capture.gradient_order) < sum(p.requires_grad for p in module.parameters()):
            optimizer = optimizer.with_unused()
        lowered = lower(self._capture, costs, optimizer, accumulates=accumulates)
        older = [p.grad for p in module.parameters() if accumulates]
        self.older_gradients_bytes = distinct_bytes(older)
        self._buckets_bytes = buckets_bytes
        beside_bytes = self.older_gradients_bytes + buckets_bytes
        self._lowered = dataclasses.replace(lowered, fixed_bytes=lowered.fixed_bytes + beside_bytes)
        self.baseline_peak_bytes = _baseline_peak_bytes(
            self._capture,
            self._lowered,
            new_gradients_bytes=0 if accumulates else self._capture.gradient_bytes,
            optimizer=optimizer,
        )

    @property
    def is_fake(self) -> bool:
        """Whether model or inputs hold no data."""
        return self._capture.is_fake

    @property
    def is_complete(self) -> bool:
        """Whether one graph holds the whole forward: no other way to run it takes less.

        A step then holds what is predicted; what stands between graphs is only guessed. A loss
        outside of the model runs in the same way whatever the model does.
        """
        captured = self._capture
        own = [graph for graph in captured.graphs if not graph.is_outside]
        return len(own) == 1 and not captured.foreign_ops and not self._blocks

    @property
    def budget_bytes(self) -> int:
        """The budget that was asked for, in bytes."""
        return self._request.budget.resolve(self.baseline_peak_bytes)

    def with_budget(self, budget_bytes: int) -> Planner:
        """The same step with another budget."""
        other = copy.copy(self)
        other._request = dataclasses.replace(self._request, budget=Budget(bytes=budget_bytes))
        return other

    def plan(self, *, held_back_bytes: int = 0) -> Planned:
        """Solve for the budget.

        Args:
            held_back_bytes: Taken off the budget while solving: what a measured step had above its
                prediction.

        Raises:
            BudgetError: No schedule fits; says what the least is and what it is made of.
        """
        request = self._request
        plan = self._problem.plan(
            method=request.method,
            time_limit_s=request.time_limit_s,
            held_back_bytes=held_back_bytes,
        )
        assert plan.schedule is not None
        orders = region_orders(
            self._lowered.graph, self._lowered.origins, plan.schedule, len(self._capture.graphs)
        )
        regions = tuple(
            PlannedRegion(
                fingerprint=graph.joint.fingerprint,
                signatures=signatures(graph.joint),
                absent_tangents=graph.joint.absent_tangents,
                order=order,
                arrivals=_arrivals(graph, self._capture.gradient_order),
            )
            for graph, order in zip(self._capture.graphs, orders, strict=True)
            if graph.has_backward and not graph.is_outside
        )
        return Planned(
            plan=plan,
            program=PlannedRegions(
                regions=regions,
                positions_are_counted=self._capture.positions_are_counted,
                in_pieces=self._in_pieces,
                varying=self._varying,
                blocks=self._blocks,
            ),
        )

    def untouched(self) -> Plan:
        """The plan of leaving the model as it is."""
        return self._problem.untouched()

    @property
    def _problem(self) -> StepProblem:
        captured = self._capture
        return StepProblem(
            graph=self._lowered.graph,
            budget_bytes=self.budget_bytes,
            baseline_peak_bytes=self.baseline_peak_bytes,
            fixed=FixedBytes(
                parameters_bytes=captured.parameters_bytes,
                buffers_bytes=captured.buffers_bytes,
                optimizer_bytes=self._request.optimizer.state_bytes,
                inputs_bytes=captured.inputs_bytes,
                communication_bytes=self._buckets_bytes,
            ),
            older_gradients_bytes=self.older_gradients_bytes,
            gradients_bytes=captured.gradient_bytes,
            optimizer=self._request.optimizer,
            cost_source="measured" if self._is_measured else "roofline",
            device=str(captured.device),
            num_graphs=len(captured.graphs),
            rung="blocks" if self._blocks else "whole",
            notes=_notes(captured),
        )


def _arrivals(graph: CapturedGraph, gradient_order: tuple[int, ...]) -> tuple[int, ...]:
    """Positions of a graph's parameters among its tensors, in the order of their gradients."""
    positions = {key: at for at, (key,) in enumerate(filter(None, graph.input_keys))}
    return tuple(positions[key] for key in gradient_order if key in positions)


def _captured_in_blocks(
    module: torch.nn.Module, captured: Callable[..., Capture]
) -> tuple[Capture, tuple[str, ...]]:
    """Capture the outermost submodules, taking those apart that fail, until all are graphs."""
    blocks = outermost_blocks(module)
    while blocks:
        try:
            return captured(blocks=blocks), blocks
        except FailedBlocks as failed:
            blocks = finer_blocks(module, blocks, failed.paths)
    raise CaptureError(where=type(module).__name__, reason="none of its blocks is one graph")


def _baseline_peak_bytes(
    captured: Capture, lowered: Lowered, *, new_gradients_bytes: int, optimizer: OptimizerMemory
) -> int:
    """What the eager step peaks at: its tensors, and the workspace that its operators add."""
    graph = lowered.graph
    none = solve(Problem(graph=graph, budget_bytes=2**62), method="none").schedule
    assert none is not None
    bare = dataclasses.replace(
        graph, ops=tuple(dataclasses.replace(op, workspace_bytes=0) for op in graph.ops)
    )
    workspace_bytes = simulate(graph, none).peak_bytes - simulate(bare, none).peak_bytes
    kept_bytes = sum(graph.storages[storage].size_bytes for storage in graph.outputs)
    step_bytes = max(new_gradients_bytes, kept_bytes) + optimizer.step_bytes
    return lowered.fixed_bytes + max(captured.eager_peak_bytes + workspace_bytes, step_bytes)


def _notes(captured: Capture) -> tuple[str, ...]:
    notes = []
    if captured.foreign_ops:
        notes.append(
            "outside of the captured graphs, not planned and not counted: "
            + ", ".join(captured.foreign_ops)
        )
    return tuple(notes)
