"""Plans from captured graphs: capture, profile, lower, solve, in that order."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import torch

from autockpt import progress
from autockpt.capture.blocks import FailedBlocks, finer_blocks, outermost_blocks
from autockpt.capture.captured import (
    Capture,
    CapturedGraph,
    gradients_of_parameters,
    sums_out_of_order,
)
from autockpt.capture.pieces import Pieces
from autockpt.capture.step import capture
from autockpt.devices.device import Device
from autockpt.errors import CaptureError, internal_errors
from autockpt.ladder.baseline import baseline_peak_bytes, running_bytes, with_measured_eager
from autockpt.ladder.executable import ExecutablePlan
from autockpt.ladder.step import StepToPlan, solver_errors
from autockpt.loop import NO_OTHERS
from autockpt.lower.graph import Lowered, lower
from autockpt.lower.orders import region_orders
from autockpt.lower.origins import module_of
from autockpt.lower.others import with_others
from autockpt.lower.places import places_of
from autockpt.lower.problem import StepProblem
from autockpt.profile.cost_model import CostModel, Placed, modelled, name_of
from autockpt.profile.operators import profile
from autockpt.profile.roofline import is_known
from autockpt.report.parts import FixedBytes
from autockpt.report.plan import Plan
from autockpt.rewrite.align import signatures
from autockpt.rewrite.regions import PlannedRegion, PlannedRegions
from autockpt_solvers import ComputeGraph


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlanner:
    """A captured step, ready to be planned for any budget; see `StepPlanner`.

    Attributes:
        step: The step.
        pieces: Where the graphs are cut, so that gradients arrive during the backward.
        blocks: The submodules that were captured one by one; empty if the forward was as a whole.
        captured: The graphs.
        lowered: The engine's graph, and where its parts come from.
        problem: What the engine is asked.
    """

    step: StepToPlan
    pieces: Pieces
    blocks: tuple[str, ...]
    captured: Capture
    lowered: Lowered
    problem: StepProblem

    @classmethod
    def capture(
        cls, step: StepToPlan, *, pieces: Pieces = "", in_blocks: bool = False
    ) -> GraphPlanner:
        """Capture, profile and lower a step; the model is left as it was.

        Args:
            step: The step.
            pieces: Where to cut the graphs, so that gradients arrive during the backward.
            in_blocks: Capture the largest submodules that are graphs, one by one.

        Raises:
            CaptureError: The step cannot be captured.
            InternalError: A bug in autockpt.
            NotTrainableError: Nothing requires a gradient.
        """
        how = "block by block" if in_blocks else "in pieces" if pieces else "as one graph"
        progress.stage(f"capturing {how}")
        captured, blocks = _captured(step, pieces=pieces, in_blocks=in_blocks)
        if sums_out_of_order(captured, step.loop):
            raise CaptureError(
                where=step.model_name,
                reason="a graph would add up the gradients of a tensor's several uses before it "
                "adds them to those of another graph or call, in another order than eager",
            )
        return cls._of(step, captured, pieces=pieces, blocks=blocks)

    def on(self, device: Device) -> GraphPlanner:
        """The same step on another device, which runs the same kernels at other rates."""
        request = dataclasses.replace(self.step.request, device=device)
        return self._of(
            dataclasses.replace(self.step, request=request),
            dataclasses.replace(self.captured, target=device),
            pieces=self.pieces,
            blocks=self.blocks,
        )

    @classmethod
    def _of(
        cls, step: StepToPlan, captured: Capture, *, pieces: Pieces, blocks: tuple[str, ...]
    ) -> GraphPlanner:
        """Profile and lower what was captured."""
        with internal_errors("profile"):
            nodes = [op.node for graph in captured.graphs for op in graph.joint.ops]
            target = step.request.device
            measure = not captured.is_fake
            costs = profile(nodes, captured.device, measure=measure, target=target)
        device = str(captured.device) if target is None else target.name
        cost_source = "roofline" if captured.is_fake else "measured"
        if step.request.cost is not None:
            costs = modelled(_placed(captured), costs, step.request.cost, device=device)
            cost_source = "model"
        progress.stage("building the solver's graph")
        with internal_errors("lower"):
            optimizer = step.request.optimizer
            num_trained = sum(p.requires_grad for p in step.module.parameters())
            if len(captured.gradient_order) < num_trained:
                optimizer = optimizer.with_unused()
            lowered = lower(
                captured,
                costs,
                optimizer,
                loop=step.loop,
                cleared_gradients_bytes=step.cleared_gradients_bytes,
            )
            if step.loop.others != NO_OTHERS:
                graph = with_others(lowered.graph, step.loop.others)
                lowered = dataclasses.replace(lowered, graph=graph)
            baseline_bytes = baseline_peak_bytes(step, captured, lowered, optimizer)
        problem = StepProblem(
            graph=lowered.graph,
            budget_bytes=0,
            baseline_peak_bytes=baseline_bytes,
            fixed=FixedBytes(
                parameters_bytes=captured.parameters_bytes,
                buffers_bytes=captured.buffers_bytes,
                optimizer_bytes=step.request.optimizer.state_bytes,
                inputs_bytes=step.loop.num_calls * captured.inputs_bytes,
                communication_bytes=step.buckets_bytes,
                workspace_bytes=0 if target is None else target.workspace_bytes,
                other_models_bytes=step.loop.others.beside_bytes,
            ),
            older_gradients_bytes=step.older_gradients_bytes,
            gradients_bytes=captured.gradient_bytes,
            optimizer=step.request.optimizer,
            cost_source=cost_source,
            device=device,
            context_bytes=0 if target is None else target.context_bytes,
            num_graphs=len(captured.graphs),
            rung="blocks" if blocks else "whole",
            notes=_notes(captured, step.request.cost, target),
            places=places_of(captured, lowered.origins),
        )
        problem = problem.for_calls(step.loop.num_calls)
        if captured.foreign_ops:
            problem = with_measured_eager(step, captured, problem)
        problem = problem.within(step.request.budget)
        return cls(
            step=step,
            pieces=pieces,
            blocks=blocks,
            captured=captured,
            lowered=lowered,
            problem=problem,
        )

    @property
    def is_fake(self) -> bool:
        """Whether the model or its inputs have no data."""
        return self.captured.is_fake

    @property
    def is_complete(self) -> bool:
        """Whether one graph contains the whole forward.

        A step then needs what is predicted, and no other way to run it needs less. What stays in
        memory between several graphs is only estimated. A loss outside of the model runs the same
        way whatever the model does.
        """
        own = [graph for graph in self.captured.graphs if not graph.is_outside]
        return len(own) == 1 and not self.captured.foreign_ops and not self.blocks

    @property
    def new_gradients_bytes(self) -> int:
        """Bytes of the gradients of parameters that this step makes."""
        sizes: dict[int, int] = {}
        for region, graph in enumerate(self.captured.graphs):
            for key, storage in gradients_of_parameters(self.captured, region):
                sizes[key] = graph.joint.storage_bytes[storage]
        return sum(sizes.values())

    @property
    def running_bytes(self) -> int:
        """What eager's forward and backward need at their peak, beyond what the whole step needs.

        The optimizer's step may need more.
        """
        return running_bytes(self.captured, self.lowered)

    @property
    def is_hopeless_as_one_graph(self) -> bool:
        """Whether the budget rules out an uncut graph, which gives all gradients back at once."""
        if len(self.captured.graphs) == 1:
            return True  # it could not be cut
        return self.budget_bytes < self.fixed_bytes + self.new_gradients_bytes

    @property
    def graphs(self) -> tuple[ComputeGraph, ...]:
        """The engine's graph of the step."""
        return (self.problem.graph,)

    @property
    def split(self) -> str:
        """Where Dynamo splits the forward, and why; empty if it does not."""
        return self.captured.split

    @property
    def baseline_peak_bytes(self) -> int:
        """The peak of the eager step, everything counted."""
        return self.problem.baseline_peak_bytes

    @property
    def budget_bytes(self) -> int:
        """The budget to plan for."""
        return self.problem.budget_bytes

    @property
    def fixed_bytes(self) -> int:
        """Memory that the whole step needs, whatever the plan."""
        return self.problem.fixed_bytes

    @property
    def device(self) -> torch.device:
        """The device of the step."""
        return self.captured.device

    def with_budget(self, budget_bytes: int) -> GraphPlanner:
        """The same step with another budget."""
        problem = dataclasses.replace(self.problem, budget_bytes=budget_bytes)
        return dataclasses.replace(self, problem=problem)

    def plan(self, *, held_back_bytes: int = 0) -> ExecutablePlan:
        """Solve for the budget; see `StepPlanner.plan`."""
        request = self.step.request
        if request.given is not None:
            given = self.problem.apply(
                request.given, time_limit_s=request.time_limit_s, solving=self.step.solving
            )
            return self._executable(given)
        with solver_errors(request):
            plan = self.problem.plan(
                method=request.method,
                time_limit_s=request.time_limit_s,
                solving=self.step.solving,
                held_back_bytes=held_back_bytes,
            )
        progress.stage("ordering the graphs by the plan")
        return self._executable(plan)

    def untouched(self) -> Plan:
        """The plan that leaves the model as it is."""
        request = self.step.request
        with solver_errors(request):
            return self.problem.untouched(
                method=request.method,
                time_limit_s=request.time_limit_s,
                solving=self.step.solving,
            )

    @property
    def is_refused_at_once(self) -> bool:
        """Whether a bound proves, before any search, that no plan fits."""
        with self.step.solving.uncounted():
            return self.problem.is_refused_at_once

    def unplanned(self) -> ExecutablePlan | None:
        """The captured graphs with nothing recomputed; None if a plan is compiled anew anyway."""
        if self.step.varying:
            return None
        return self._executable(self.problem.with_nothing_recomputed())

    def _executable(self, plan: Plan) -> ExecutablePlan:
        with internal_errors("lower"):
            program = self._program(plan)
        return ExecutablePlan(plan=plan, program=program, compiled=self.captured.compiled)

    def _program(self, plan: Plan) -> PlannedRegions:
        assert plan.schedule is not None
        captured = self.captured
        orders = region_orders(
            self.lowered.graph, self.lowered.origins, plan.schedule, len(captured.graphs)
        )
        regions = tuple(
            PlannedRegion(
                fingerprint=graph.joint.fingerprint,
                constants=graph.joint.constants,
                signatures=signatures(graph.joint),
                absent_tangents=graph.joint.absent_tangents,
                order=order,
                arrivals=_arrivals(graph, captured.gradient_order),
            )
            for graph, order in zip(captured.graphs, orders, strict=True)
            if graph.has_backward and not graph.is_outside
        )
        return PlannedRegions(
            regions=regions,
            positions_are_counted=captured.positions_are_counted,
            pieces=self.pieces,
            varying=self.step.varying,
            blocks=self.blocks,
            numbers_vary=self.step.numbers_vary,
            output_types=captured.output_types,
        )


def _captured(
    step: StepToPlan, *, pieces: Pieces, in_blocks: bool
) -> tuple[Capture, tuple[str, ...]]:
    """Capture a step, whole or in blocks, and return the blocks too."""
    capture_with = functools.partial(
        capture,
        step.module,
        step.forward,
        step.args,
        step.kwargs,
        loss_fn=step.request.loss_fn,
        loop=step.loop,
        pieces=pieces,
        memo=None if pieces or in_blocks or step.varying else step.memo,
        target=step.request.device,
    )
    return _in_blocks(step.module, capture_with) if in_blocks else (capture_with(), ())


def _in_blocks(
    module: torch.nn.Module, capture_with: Callable[..., Capture]
) -> tuple[Capture, tuple[str, ...]]:
    """Capture the outermost submodules, dividing those that fail, until all are graphs."""
    blocks = outermost_blocks(module)
    while blocks:
        try:
            return capture_with(blocks=blocks), blocks
        except FailedBlocks as failed:
            blocks = finer_blocks(module, blocks, failed.paths)
    raise CaptureError(where=type(module).__name__, reason="none of its blocks is one graph")


def _arrivals(graph: CapturedGraph, gradient_order: tuple[int, ...]) -> tuple[int, ...]:
    """Positions of a graph's parameters among its tensors, in the order of their gradients."""
    positions = {key: at for at, (key,) in enumerate(filter(None, graph.input_keys))}
    return tuple(positions[key] for key in gradient_order if key in positions)


def _placed(captured: Capture) -> Iterator[Placed]:
    """The operations of all graphs, with the modules that they belong to."""
    for graph in captured.graphs:
        for op in graph.joint.ops:
            module = module_of(op.node, captured.module_names)
            yield Placed(node=op.node, module=module, is_backward=op.is_backward)


def _notes(captured: Capture, cost: CostModel | None, target: Device | None) -> tuple[str, ...]:
    notes = [] if cost is None else [f"the cost model is {name_of(cost)}"]
    if captured.is_fake and target is None and not is_known(captured.device):
        notes.append(
            f"no rates of {captured.device} are known, so times are those of an H100; name a "
            "device that is known with device="
        )
    if captured.foreign_ops:
        notes.append(
            "outside of the captured graphs, not planned and not counted: "
            + ", ".join(captured.foreign_ops)
        )
    return tuple(notes)
