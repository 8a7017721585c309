"""A training step as a problem of the engine, and its answers as plans: for any kind of graph."""

from __future__ import annotations

import dataclasses

from autockpt import progress
from autockpt.budget import Budget
from autockpt.errors import BEYOND, BudgetError, PlanMismatchError
from autockpt.lower.calls import plan_for_calls
from autockpt.lower.difference import first_difference
from autockpt.lower.solving_time import SolvingTime
from autockpt.profile.optimizer import OptimizerMemory
from autockpt.report.kinds import MemoryKind
from autockpt.report.parts import FixedBytes
from autockpt.report.plan import Plan
from autockpt.report.timeline.breakdown import kept_outputs_bytes, module_rows, peak_parts
from autockpt.report.timeline.places import NO_PLACES, Places
from autockpt.report.timeline.replay import forward_end
from autockpt_solvers import (
    EVERY_PLAN,
    Compute,
    ComputeGraph,
    Method,
    MinimumBudget,
    Problem,
    Result,
    Schedule,
    SolveStatus,
    Watcher,
    baseline_schedule,
    cheaper_budgets,
    judge,
    minimum_budget,
    simulate,
    solve,
)

# For the smallest budget if a bound proves that the budget is too small, for cheaper budgets, and
# for a bound on a plan that was given.
_QUICK_S = 2.0
# For the smallest budget if the model fits unchanged. On a graph of a thousand operations a core
# that is free takes about two seconds; nobody who has enough memory should wait longer for a line
# of the report.
_MINIMUM_S = 5.0
_DESCENDING = ("auto", "ilp")  # the methods whose smallest budget takes only a short descent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepProblem:
    """A step's graph and the memory beside it; see `Plan` for what the fields mean."""

    graph: ComputeGraph
    budget_bytes: int
    baseline_peak_bytes: int
    fixed: FixedBytes
    older_gradients_bytes: int
    gradients_bytes: int
    optimizer: OptimizerMemory
    cost_source: str
    device: str
    num_graphs: int
    rung: str
    notes: tuple[str, ...]
    num_calls: int = 1
    context_bytes: int = 0
    places: Places = NO_PLACES

    @property
    def outside(self) -> frozenset[int]:
        """The ops that code outside of the model runs."""
        return frozenset(self.places.outside)

    @property
    def fixed_bytes(self) -> int:
        """Memory that the whole step needs, whatever the schedule."""
        return self.fixed.total_bytes + self.older_gradients_bytes

    def plan(
        self,
        *,
        method: str | Method,
        time_limit_s: float,
        solving: SolvingTime,
        held_back_bytes: int,
    ) -> Plan:
        """Solve for the budget; all calls before one backward follow the same plan.

        Args:
            method: The solver's method.
            time_limit_s: How long all solves of this planning may take.
            solving: How long they have taken so far.
            held_back_bytes: Taken off the budget while solving.

        Raises:
            BudgetError: No schedule fits, or none was found in time. Has the smallest workable
                budget that was found and a breakdown of it.
        """
        if self.num_calls == 1:
            return self._plan(method, time_limit_s, solving, held_back_bytes)

        def is_over() -> bool:
            return solving.is_over(time_limit_s)

        def plan_beside(other_bytes: int) -> Plan:
            return self._plan(method, time_limit_s, solving, held_back_bytes + other_bytes)

        room_bytes = max(0, self.budget_bytes - held_back_bytes - self.fixed_bytes)
        try:
            return plan_for_calls(
                plan_beside, num_calls=self.num_calls, room_bytes=room_bytes, is_over=is_over
            )
        except BudgetError as error:
            # It is of one call.
            limit_s = min(_QUICK_S, solving.for_a_minimum(time_limit_s))
            watch = self._watch("searching for the smallest workable budget", limit_s)
            with solving.counted(limit_s):
                least = minimum_budget(self.graph, method=method, time_limit_s=limit_s, watch=watch)
                aside_bytes = held_back_bytes + self.other_calls_bytes(least.schedule)
                needed_bytes = self.fixed_bytes + least.peak_bytes + aside_bytes
                if needed_bytes > self.budget_bytes:
                    raise BudgetError(
                        budget_bytes=self.budget_bytes, minimum_peak_bytes=needed_bytes
                    ) from error
                # The search for what to set aside stops close to the least, not at it.
                problem = Problem(
                    graph=self.graph,
                    budget_bytes=self.budget_bytes - aside_bytes,
                    fixed_bytes=self.fixed_bytes,
                )
                named = judge(problem, least.schedule, time_limit_s=limit_s, watch=watch)
            name = method if isinstance(method, str) else getattr(method, "__name__", named.method)
            named = dataclasses.replace(named, method=name)
            return self._described(named, least.schedule)

    def _plan(
        self,
        method: str | Method,
        time_limit_s: float,
        solving: SolvingTime,
        held_back_bytes: int,
    ) -> Plan:
        """Solve for the budget, for one call."""
        problem = Problem(
            graph=self.graph,
            budget_bytes=max(1, self.budget_bytes - held_back_bytes),
            fixed_bytes=self.fixed_bytes,
        )
        limit_s = solving.for_a_solve(time_limit_s, is_one_of_many=self.num_calls > 1)
        watch = self._watch("solving", limit_s)
        watch = solving.watched(watch, step_ns=self.graph.total_runtime_ns)
        result = solving.result(
            lambda: solve(problem, method=method, time_limit_s=limit_s, watch=watch)
        )
        if result.schedule is not None:
            cheaper = self._cheaper_budgets(result, result.schedule, time_limit_s, solving)
            return self._described(result, result.schedule, cheaper)
        if result.minimum_schedule is not None:
            known = MinimumBudget(
                peak_bytes=result.minimum_peak_bytes - self.fixed_bytes,
                lower_bound_bytes=result.minimum_bound_bytes - self.fixed_bytes,
                bound_class=result.bound_class,
                schedule=result.minimum_schedule,
            )
            raise self._budget_error(result, known, time_limit_s, held_back_bytes)
        limit_s = solving.for_a_minimum(time_limit_s)
        if result.status is SolveStatus.INFEASIBLE:
            limit_s = min(limit_s, _QUICK_S)
        watch = self._watch("searching for the smallest workable budget", limit_s)
        with solving.counted(limit_s):
            least = minimum_budget(self.graph, method=method, time_limit_s=limit_s, watch=watch)
            # A search that its time limit ended may miss what the search for the least finds.
            named = judge(problem, least.schedule, time_limit_s=limit_s, watch=watch)
        if named.schedule is not None:
            named = dataclasses.replace(named, method=result.method)
            cheaper = self._cheaper_budgets(named, least.schedule, time_limit_s, solving)
            return self._described(named, least.schedule, cheaper)
        error = self._budget_error(result, least, time_limit_s, held_back_bytes)
        raise error if result.has_offered else error.of_silent(result.method)

    def apply(self, given: Plan, *, time_limit_s: float, solving: SolvingTime) -> Plan:
        """A plan that was made elsewhere, for this step.

        Args:
            given: The plan.
            time_limit_s: As for `plan`.
            solving: As for `plan`.

        Raises:
            BudgetError: On this device the plan needs more than the budget.
            PlanMismatchError: It is for another step.
        """
        if given.graph is None or given.schedule is None:
            raise PlanMismatchError("it has no schedule")
        difference = first_difference(given.graph, self.graph)
        if difference:
            raise PlanMismatchError(difference)
        result = self._judged(given.schedule, time_limit_s, solving)
        if result.schedule is None:
            error = BudgetError(
                budget_bytes=self.budget_bytes, minimum_peak_bytes=result.peak_bytes
            )
            if given.optimizer_name != self.optimizer.name:
                error.add_note(
                    f"The given plan was made for the optimizer {given.optimizer_name}, and this "
                    f"step's is {self.optimizer.name}."
                )
            raise error
        named = dataclasses.replace(result, method=given.method)
        cheaper = self._cheaper_budgets(named, given.schedule, time_limit_s, solving)
        return self._described(named, given.schedule, cheaper)

    def following(self, schedule: Schedule, *, time_limit_s: float, solving: SolvingTime) -> Plan:
        """The plan of a schedule that fits.

        Args:
            schedule: The schedule.
            time_limit_s: As for `plan`.
            solving: As for `plan`.
        """
        result = self._judged(schedule, time_limit_s, solving)
        assert result.schedule is not None
        return self._described(dataclasses.replace(result, method="auto"), schedule)

    def _judged(self, schedule: Schedule, time_limit_s: float, solving: SolvingTime) -> Result:
        """What a schedule costs, with a bound on it."""
        problem = Problem(
            graph=self.graph, budget_bytes=self.budget_bytes, fixed_bytes=self.fixed_bytes
        )
        limit_s = min(_QUICK_S, solving.for_a_solve(time_limit_s))
        watch = self._watch("judging the given plan", limit_s)
        return solving.result(lambda: judge(problem, schedule, time_limit_s=limit_s, watch=watch))

    @property
    def is_refused_at_once(self) -> bool:
        """Whether a bound proves, before any search, that no schedule fits."""
        if self.budget_bytes >= self.baseline_peak_bytes:
            return False
        problem = Problem(
            graph=self.graph, budget_bytes=self.budget_bytes, fixed_bytes=self.fixed_bytes
        )
        result = judge(problem, baseline_schedule(self.graph))
        return result.schedule is None and result.status is SolveStatus.INFEASIBLE

    def untouched(self, *, method: str | Method, time_limit_s: float, solving: SolvingTime) -> Plan:
        """The plan of leaving the model as it is.

        Args:
            method: Whose smallest budget the plan names, if a short descent finds that. Otherwise
                the plan names none.
            time_limit_s: As for `plan`.
            solving: As for `plan`.
        """
        if method not in _DESCENDING:
            return self.with_nothing_recomputed()
        problem = Problem(
            graph=self.graph,
            budget_bytes=self.fixed_bytes + self.graph.most_bytes,
            fixed_bytes=self.fixed_bytes,
        )
        limit_s = min(_MINIMUM_S, solving.for_a_minimum(time_limit_s))
        watch = self._watch("searching for the smallest workable budget", limit_s)
        result = solving.result(
            lambda: solve(problem, method=method, time_limit_s=limit_s, watch=watch)
        )
        assert result.schedule is not None
        return self._described(dataclasses.replace(result, method="none"), result.schedule)

    def with_nothing_recomputed(self) -> Plan:
        """The plan that runs the graph's operations in their order, once; nothing is searched."""
        schedule = baseline_schedule(self.graph)
        peak_bytes = self.fixed_bytes + simulate(self.graph, schedule).peak_bytes
        result = Result(
            status=SolveStatus.OPTIMAL,
            schedule=schedule,
            recompute_ns=0,
            peak_bytes=peak_bytes,
            lower_bound_ns=0,
            lower_bound_bytes=0,
            bound_class=EVERY_PLAN,
            minimum_peak_bytes=peak_bytes,
            minimum_bound_bytes=0,
            minimum_schedule=None,
            solve_time_s=0.0,
            method="none",
        )
        return self._described(result, schedule)

    def other_calls_bytes(self, schedule: Schedule) -> int:
        """What the other calls of the step hold while one that follows the schedule is at its peak.

        The last call runs while all earlier ones hold what they saved, and the gradients that their
        backwards start from. In the backward of an earlier call, the gradients of the later ones
        wait to be added to its own.
        """
        if self.num_calls == 1:
            return 0
        saved = {*simulate(self.graph, schedule).saved, *self._incoming}
        saved_bytes = sum(self.graph.storages[storage].size_bytes for storage in saved)
        return (self.num_calls - 2) * saved_bytes + max(saved_bytes, self.gradients_bytes)

    @property
    def _incoming(self) -> set[int]:
        """Storages of the gradients that the backward starts from."""
        return {
            storage
            for op in self.graph.ops
            if op.is_backward and not op.reads
            for storage in op.writes
            if self.graph.is_output[storage]
        }

    def for_calls(self, num_calls: int) -> StepProblem:
        """The same with several calls before one backward; `baseline_peak_bytes` counts them too.

        A share of eager's peak as the budget is one of the peak with all calls.
        """
        several = dataclasses.replace(self, num_calls=num_calls)
        other_bytes = several.other_calls_bytes(baseline_schedule(self.graph))
        return dataclasses.replace(
            several, baseline_peak_bytes=self.baseline_peak_bytes + other_bytes
        )

    def within(self, budget: Budget) -> StepProblem:
        """The same for another budget."""
        budget_bytes = budget.resolve(self.baseline_peak_bytes)
        return dataclasses.replace(self, budget_bytes=budget_bytes)

    def _notes_of_calls(self) -> tuple[str, ...]:
        if self.num_calls == 1:
            return ()
        return (f"{self.num_calls} calls share one backward, and all of them follow this plan",)

    def _watch(self, stage: str, limit_s: float) -> Watcher | None:
        return progress.search(stage, limit_s=limit_s, step_ns=self.graph.total_runtime_ns)

    def _described(
        self, result: Result, schedule: Schedule, cheaper: tuple[tuple[int, int], ...] = ()
    ) -> Plan:
        timeline = simulate(self.graph, schedule)
        # A plan that recomputes nothing was not searched for: its peak says nothing about smaller
        # budgets, unless the method found its smallest one beside it.
        is_known = bool(result.recompute_ns or result.minimum_schedule is not None)
        is_known = is_known or result.minimum_peak_bytes == result.minimum_bound_bytes
        # Nothing is proven of plans that differ from call to call.
        is_known = is_known and self.num_calls == 1
        other_bytes = self.other_calls_bytes(schedule)
        parts = peak_parts(self.graph, schedule, timeline, self.outside)
        least = result.minimum_schedule or schedule
        return Plan(
            budget_bytes=self.budget_bytes,
            predicted_peak_bytes=self.fixed_bytes + other_bytes + timeline.peak_bytes,
            baseline_peak_bytes=self.baseline_peak_bytes,
            minimum_peak_bytes=result.minimum_peak_bytes + self.other_calls_bytes(least),
            minimum_bound_bytes=result.minimum_bound_bytes if is_known else 0,
            cheaper_budgets=cheaper,
            baseline_step_ns=sum(op.runtime_ns for op in self.graph.ops),
            recompute_ns=result.recompute_ns,
            lower_bound_ns=result.lower_bound_ns if self.num_calls == 1 else 0,
            status=result.status if self.num_calls == 1 else SolveStatus.FEASIBLE,
            method=result.method,
            solve_time_s=result.solve_time_s,
            fixed=dataclasses.replace(self.fixed, other_calls_bytes=other_bytes),
            gradients_bytes=self.gradients_bytes,
            outputs_bytes=self.num_calls * kept_outputs_bytes(self.graph, self.outside),
            older_gradients_bytes=self.older_gradients_bytes,
            optimizer_name=self.optimizer.name,
            optimizer_assumed=self.optimizer.is_assumed,
            cost_source=self.cost_source,
            device=self.device,
            context_bytes=self.context_bytes,
            num_graphs=self.num_graphs,
            rung=self.rung,
            rows=module_rows(self.graph, schedule, timeline),
            peak_parts=tuple(parts.items()),
            notes=(*self.notes, *self._notes_of_calls(), *self.optimizer.notes),
            graph=self.graph,
            schedule=schedule,
            places=self.places,
        )

    def _cheaper_budgets(
        self, result: Result, schedule: Schedule, time_limit_s: float, solving: SolvingTime
    ) -> tuple[tuple[int, int], ...]:
        """Larger budgets at which a step costs less, if this plan more than doubles it."""
        if result.recompute_ns <= self.graph.total_runtime_ns:
            return ()
        room = Problem(
            graph=self.graph, budget_bytes=self.budget_bytes, fixed_bytes=self.fixed_bytes
        )
        limit_s = min(_QUICK_S, solving.for_a_minimum(time_limit_s))
        watch = self._watch("searching for budgets that cost less", limit_s)
        with solving.counted(limit_s):
            points = cheaper_budgets(room, schedule, time_limit_s=limit_s, watch=watch)
        return tuple((point.budget_bytes, point.recompute_ns) for point in points)

    def _budget_error(
        self, result: Result, least: MinimumBudget, time_limit_s: float, held_back_bytes: int
    ) -> BudgetError:
        schedule = least.schedule
        minimum_bytes = self.fixed_bytes + least.peak_bytes
        bound_bytes = self.fixed_bytes + least.lower_bound_bytes
        if result.status is SolveStatus.INFEASIBLE:
            bound_bytes = result.lower_bound_bytes
        else:
            minimum_bytes = min(minimum_bytes, result.minimum_peak_bytes)
        timeline = simulate(self.graph, schedule)
        step = schedule.steps[timeline.peak_step]
        assert isinstance(step, Compute)
        op = self.graph.ops[step.op]
        phase = "forward" if timeline.peak_step <= forward_end(self.graph, schedule) else "backward"
        place = f"the {phase} of {op.segment}" if op.segment else op.name
        composition = {
            **self.fixed.by_kind,
            MemoryKind.OLDER_GRADIENTS: self.older_gradients_bytes,
            **peak_parts(self.graph, schedule, timeline, self.outside),
            BEYOND: held_back_bytes,
        }
        return BudgetError(
            budget_bytes=self.budget_bytes,
            minimum_peak_bytes=minimum_bytes + held_back_bytes,
            lower_bound_bytes=bound_bytes + held_back_bytes,
            status=result.status,
            time_limit_s=time_limit_s,
            peak_node=f"{place} ({op.name})" if op.segment else place,
            composition=composition,
        )
