"""A plan without any capture: the engine chooses which calls of submodules to checkpoint."""

from __future__ import annotations

import collections
import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autockpt.capture.fakes import holds_no_data
from autockpt.checkpoint.calls import Calls, observe
from autockpt.checkpoint.graph import CallGraph, call_graph, frontiers
from autockpt.checkpoint.runtime import CheckpointedCalls
from autockpt.errors import BudgetError, CaptureError, NotTrainableError
from autockpt.ladder.eager import (
    check_parameters_stay,
    device_of,
    failing,
    fixed_bytes,
    gradients_bytes,
)
from autockpt.ladder.planned import Planned
from autockpt.lower.problem import StepProblem
from autockpt.report.plan import Plan
from autockpt.request import Request
from autockpt.torch_private.pytree import tree_leaves
from autockpt.verify.live_bytes import distinct_bytes
from autockpt.verify.step import Step
from autockpt_solvers import Compute


class CallPlanner:
    """Watches a forward once, then plans for as many budgets as are asked for."""

    def __init__(
        self,
        module: torch.nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        request: Request,
        *,
        accumulates: bool = False,
        buckets_bytes: int = 0,
    ) -> None:
        """Run the forward and measure its calls; the model is left as it was.

        Args:
            module: The model.
            forward: Its forward.
            args: Positional inputs.
            kwargs: Keyword inputs.
            request: What is asked.
            accumulates: Whether gradients of an earlier backward stand beside this step's.
            buckets_bytes: What data parallelism holds beside the gradients to reduce them.

        Raises:
            CaptureError: The forward cannot run on these inputs, or none of its calls may run
                twice.
            NotTrainableError: Nothing requires a gradient.
        """
        self._request = request
        self.accumulates = accumulates
        parameters, buffers = list(module.parameters()), list(module.buffers())
        tensors = [*parameters, *buffers, *tree_leaves((args, dict(kwargs)))]
        where = type(module).__name__
        if holds_no_data(tensors):
            raise CaptureError(
                where=where,
                reason="calls of modules are measured by running them, and fake or meta tensors "
                "cannot be run",
            )
        check_parameters_stay(module)
        device = device_of(module)
        calls = _observed(
            Step(
                module=module,
                forward=forward,
                args=args,
                kwargs=kwargs,
                loss_fn=request.loss_fn,
                device=device,
                accumulates=accumulates,
            )
        )
        if not calls.candidates:
            raise CaptureError(
                where=where,
                reason="none of its modules' calls keeps anything and may run twice"
                + (f" ({'; '.join(calls.obstacles[:3])})" if calls.obstacles else ""),
            )
        self._graphs = [
            call_graph(calls, atoms, module, request.optimizer, accumulates=accumulates)
            for atoms in frontiers(calls)
        ]
        self._calls = calls
        self.older_gradients_bytes = distinct_bytes([p.grad for p in parameters if accumulates])
        self._problem = StepProblem(
            graph=self._graphs[0].graph,
            budget_bytes=2**62,
            baseline_peak_bytes=0,
            fixed=fixed_bytes(module, (args, dict(kwargs)), request.optimizer, buckets_bytes),
            older_gradients_bytes=self.older_gradients_bytes,
            gradients_bytes=gradients_bytes(module),
            optimizer=request.optimizer,
            cost_source="measured",
            device=str(device),
            num_graphs=0,
            rung="checkpoint",
            notes=(),
        )
        self.baseline_peak_bytes = self._problem.untouched().predicted_peak_bytes
        self.budget_bytes = request.budget.resolve(self.baseline_peak_bytes)
        self._problem = dataclasses.replace(
            self._problem,
            baseline_peak_bytes=self.baseline_peak_bytes,
            budget_bytes=self.budget_bytes,
        )

    @property
    def is_fake(self) -> bool:
        """False: what holds no data is refused."""
        return False

    @property
    def is_complete(self) -> bool:
        """False: what runs outside of the calls is not planned."""
        return False

    def with_budget(self, budget_bytes: int) -> CallPlanner:
        """The same step with another budget."""
        other = copy.copy(self)
        other.budget_bytes = budget_bytes
        other._problem = dataclasses.replace(self._problem, budget_bytes=budget_bytes)
        return other

    def plan(self, *, held_back_bytes: int = 0) -> Planned:
        """Solve for the budget, on every way to cut the forward; see `Planner.plan`."""
        best: tuple[Plan, CallGraph] | None = None
        least: BudgetError | None = None
        time_limit_s = self._request.time_limit_s / len(self._graphs)
        for cut in self._graphs:
            problem = dataclasses.replace(self._problem, graph=cut.graph)
            try:
                plan = problem.plan(
                    method=self._request.method,
                    time_limit_s=time_limit_s,
                    held_back_bytes=held_back_bytes,
                )
            except BudgetError as error:
                if least is None or error.minimum_peak_bytes < least.minimum_peak_bytes:
                    least = error
                continue
            if best is None or plan.recompute_ns < best[0].recompute_ns:
                best = plan, cut
        if best is None:
            assert least is not None
            raise least
        plan, cut = best
        return Planned(plan=plan, program=_checkpointed(plan, cut, self._calls))

    def untouched(self) -> Plan:
        """The plan of leaving the model as it is."""
        return self._problem.untouched()


def _observed(step: Step) -> Calls:
    try:
        return observe(step)
    except (CaptureError, NotTrainableError):
        raise
    except Exception as error:
        raise failing(step.module, error) from error


def _checkpointed(plan: Plan, cut: CallGraph, calls: Calls) -> CheckpointedCalls:
    assert plan.schedule is not None
    num_runs = collections.Counter(
        step.op for step in plan.schedule.steps if isinstance(step, Compute)
    )
    chosen = {(call.path, call.number) for op, call in cut.atoms.items() if num_runs[op] > 1}
    paths = {path for path, _ in chosen}
    num_calls = collections.Counter(calls.order)
    written: dict[str, dict[str, None]] = {path: {} for path in paths}
    for call in cut.atoms.values():
        if (call.path, call.number) in chosen:
            written[call.path] |= dict.fromkeys(call.written)
    return CheckpointedCalls(
        is_checkpointed={
            path: tuple((path, number) in chosen for number in range(num_calls[path]))
            for path in paths
        },
        written={path: tuple(names) for path, names in written.items() if names},
        to_the_end=frozenset(call.path for call in cut.atoms.values() if call.fills_saved),
    )
