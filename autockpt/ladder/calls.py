"""Plans without a capture: the engine chooses which calls of submodules to checkpoint."""

from __future__ import annotations

import collections
import dataclasses

import torch

from autockpt import progress
from autockpt.capture.fakes import holds_no_data
from autockpt.checkpoint.calls import Calls, observe
from autockpt.checkpoint.graph import CallGraph, call_graph, frontiers
from autockpt.checkpoint.phases import measure_phases
from autockpt.checkpoint.runtime import CheckpointedCalls
from autockpt.errors import BudgetError, CaptureError, PlanMismatchError, internal_errors
from autockpt.ladder.executable import ExecutablePlan
from autockpt.ladder.step import StepToPlan, eager_failures, solver_errors
from autockpt.loop import NO_OTHERS
from autockpt.lower.others import with_others
from autockpt.lower.problem import StepProblem
from autockpt.report.plan import Plan
from autockpt.verify.inputs import input_leaves
from autockpt_solvers import Compute, ComputeGraph, baseline_schedule, simulate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CallPlanner:
    """A forward that was watched, ready to be planned for any budget; see `StepPlanner`.

    Attributes:
        step: The step.
        calls: The calls of its submodules.
        cuts: Ways to cut the forward into calls, as the engine's graphs.
        problem: What the engine is asked, for the first cut.
    """

    step: StepToPlan
    calls: Calls
    cuts: tuple[CallGraph, ...]
    problem: StepProblem

    @classmethod
    def observe(cls, step: StepToPlan) -> CallPlanner:
        """Run the forward and measure its calls; the model is left as it was.

        Raises:
            CaptureError: The forward cannot run on these inputs, or none of its calls can be
                recomputed.
            InternalError: A bug in autockpt.
            NotTrainableError: Nothing requires a gradient.
        """
        module = step.module
        tensors = [*module.parameters(), *module.buffers()]
        if holds_no_data([*tensors, *input_leaves((step.args, dict(step.kwargs)))]):
            raise CaptureError(
                where=step.model_name,
                reason="autockpt measures calls of modules by running them, and fake or meta "
                "tensors cannot be run",
            )
        run = step.runnable()
        progress.stage("watching the calls of modules")
        with eager_failures(run, stage="checkpoint"):
            calls = observe(run)
        if not calls.candidates:
            raise CaptureError(
                where=step.model_name,
                reason="none of its modules' calls saves anything and can be recomputed"
                + (f" ({'; '.join(calls.obstacles[:3])})" if calls.obstacles else ""),
            )
        with internal_errors("checkpoint"):
            cuts = tuple(
                call_graph(
                    calls, atoms, module, step.request.optimizer, accumulates=step.accumulates
                )
                for atoms in frontiers(calls)
            )
            graph_bytes = _baseline_peak_bytes(cuts[0])
            fixed_bytes = step.fixed.total_bytes + step.older_gradients_bytes
        with eager_failures(run, stage="checkpoint"):
            # What a kept graph adds depends on the plan: it is measured when the plan is tried.
            alone = dataclasses.replace(
                run, loop=dataclasses.replace(run.loop.alone, keeps_graph=False)
            )
            phases = measure_phases(alone, fixed_bytes + graph_bytes)
        if phases is not None:
            with internal_errors("checkpoint"):
                cuts = tuple(cut.with_measured(phases) for cut in cuts)
                # A step may need less than the sum of what its calls need alone.
                graph_bytes = max(phases.peak_bytes, _optimizer_bytes(cuts[0]))
        if step.loop.others != NO_OTHERS:
            cuts = tuple(
                dataclasses.replace(cut, graph=with_others(cut.graph, step.loop.others))
                for cut in cuts
            )
            graph_bytes = max(graph_bytes, _baseline_peak_bytes(cuts[0]))
        problem = _problem(step, cuts[0], fixed_bytes + graph_bytes, device=str(run.device))
        return cls(step=step, calls=calls, cuts=cuts, problem=problem)

    @property
    def is_fake(self) -> bool:
        """False: a model without data is refused."""
        return False

    @property
    def is_complete(self) -> bool:
        """False: what runs outside of the calls is not planned."""
        return False

    @property
    def graphs(self) -> tuple[ComputeGraph, ...]:
        """The engine's graphs, one for each way to cut the forward into calls."""
        return tuple(cut.graph for cut in self.cuts)

    @property
    def split(self) -> str:
        """Empty: nothing is captured."""
        return ""

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
        return torch.device(self.problem.device)

    def with_budget(self, budget_bytes: int) -> CallPlanner:
        """The same step with another budget."""
        problem = dataclasses.replace(self.problem, budget_bytes=budget_bytes)
        return dataclasses.replace(self, problem=problem)

    def plan(self, *, held_back_bytes: int = 0) -> ExecutablePlan:
        """Solve for the budget, for every cut of the forward; see `StepPlanner.plan`."""
        request = self.step.request
        if request.given is not None:
            return self._applied(request.given)
        best: tuple[Plan, CallGraph] | None = None
        least: BudgetError | None = None
        minimums: list[tuple[int, int]] = []  # of each cut, with the bound
        for cut in self.cuts:
            problem = dataclasses.replace(self.problem, graph=cut.graph)
            try:
                with solver_errors(request):
                    plan = problem.plan(
                        method=request.method,
                        time_limit_s=request.time_limit_s,
                        solving=self.step.solving,
                        held_back_bytes=held_back_bytes,
                    )
            except BudgetError as error:
                minimums.append((error.minimum_peak_bytes, error.lower_bound_bytes))
                if least is None or error.minimum_peak_bytes < least.minimum_peak_bytes:
                    least = error
                continue
            minimums.append((plan.minimum_peak_bytes, plan.minimum_bound_bytes))
            if best is None or plan.recompute_ns < best[0].recompute_ns:
                best = plan, cut
        if best is None:
            assert least is not None
            raise least
        plan, cut = best
        # A smaller budget may need another cut than the best one for this budget.
        plan = dataclasses.replace(
            plan,
            minimum_peak_bytes=min(peak_bytes for peak_bytes, _ in minimums),
            minimum_bound_bytes=min(bound_bytes for _, bound_bytes in minimums),
        )
        progress.stage("ordering the calls by the plan")
        with internal_errors("checkpoint"):
            return ExecutablePlan(plan=plan, program=_checkpointed(plan, cut, self.calls))

    def _applied(self, given: Plan) -> ExecutablePlan:
        """Follow a plan that was made elsewhere, by the cut that it was made for."""
        mismatch: PlanMismatchError | None = None
        for cut in self.cuts:
            problem = dataclasses.replace(self.problem, graph=cut.graph)
            try:
                plan = problem.apply(
                    given,
                    time_limit_s=self.step.request.time_limit_s,
                    solving=self.step.solving,
                )
            except PlanMismatchError as error:
                mismatch = mismatch or error
                continue
            program = _checkpointed(plan, cut, self.calls)
            return ExecutablePlan(plan=plan, program=program)
        assert mismatch is not None
        raise mismatch

    def untouched(self) -> Plan:
        """The plan that leaves the model as it is."""
        return self.problem.with_nothing_recomputed()

    @property
    def is_refused_at_once(self) -> bool:
        """False: what runs outside of the calls is not planned, so nothing is proven."""
        return False

    def unplanned(self) -> None:
        """None: with nothing checkpointed, the step is eager's."""


def _baseline_peak_bytes(cut: CallGraph) -> int:
    return simulate(cut.graph, baseline_schedule(cut.graph)).peak_bytes


def _optimizer_bytes(cut: CallGraph) -> int:
    """What is in memory during the optimizer's step, which is the last operation."""
    schedule = baseline_schedule(cut.graph)
    last = max(at for at, step in enumerate(schedule.steps) if isinstance(step, Compute))
    return simulate(cut.graph, schedule).live_bytes[last]


def _problem(
    step: StepToPlan, cut: CallGraph, baseline_peak_bytes: int, *, device: str
) -> StepProblem:
    problem = StepProblem(
        graph=cut.graph,
        budget_bytes=0,
        baseline_peak_bytes=baseline_peak_bytes,
        fixed=step.fixed,
        older_gradients_bytes=step.older_gradients_bytes,
        gradients_bytes=step.gradients_bytes,
        optimizer=step.request.optimizer,
        cost_source="measured",
        device=device,
        num_graphs=0,
        rung="checkpoint",
        notes=()
        if step.request.cost is None
        else ("the cost model was not asked: it is for operations, and calls are measured",),
    )
    return problem.for_calls(step.loop.num_calls).within(step.request.budget)


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
