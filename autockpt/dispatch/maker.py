"""How a plan is made and tried: fallbacks, trials on real steps, and ranks that agree."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from autockpt import progress
from autockpt.budget import Budget
from autockpt.capture.step import TraceMemo
from autockpt.checkpoint.runtime import CheckpointedCalls
from autockpt.dispatch.buckets import Bucket
from autockpt.dispatch.budgets import request_for, with_held_back
from autockpt.dispatch.call import Call
from autockpt.dispatch.identity import identity
from autockpt.dispatch.kept import KeptPlan, are_kept, keep, load, unless_a_bug
from autockpt.dispatch.kept_trial import accept_kept
from autockpt.dispatch.key import PlanKey
from autockpt.dispatch.layout import resized
from autockpt.dispatch.ranks import Parallel
from autockpt.dispatch.store import PlanStore
from autockpt.dispatch.trial import AcceptedPlan, Trial
from autockpt.dispatch.variety import why_many
from autockpt.errors import AutockptError, BudgetError, drop_frames
from autockpt.ladder.eager import eager_plan
from autockpt.ladder.executable import ExecutablePlan
from autockpt.ladder.graphs import GraphPlanner
from autockpt.ladder.ladder import Ladder, Rung, leads_down
from autockpt.ladder.rungs import only_rung, rungs_of
from autockpt.ladder.step import StepToPlan
from autockpt.loop import PLAIN
from autockpt.report.plan import Plan
from autockpt.report.words.outcome import outcome
from autockpt.report.words.sentences import cost_warning, leanest_warning, many_plans_warning
from autockpt.request import Request
from autockpt.torch_private.modules import modes_and_hooks
from autockpt.user_warnings import warn_user
from autockpt.verify.step import acts_on_parameters

_OVER_BUDGET = "the leanest plan for this kind of loop; it exceeds the budget"
_MOST_LEANEST = 3  # attempts at a plan that needs as little as an error names
_MANY_PLANS = 12  # kinds of input after which a warning says that each is planned


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanMaker:
    """Makes the plans of one module and keeps them in a store.

    Attributes:
        module: The module.
        forward: Its own forward.
        request: What is asked of the plans.
        verify: See ``optimize``.
        store: Keeps the plans.
        ladder: Which rungs the module has failed on.
        memos: The latest trace, by the call that it is of and the state of the module.
    """

    module: torch.nn.Module
    forward: Callable[..., Any]
    request: Request
    verify: bool
    store: PlanStore
    ladder: Ladder
    memos: dict[Any, TraceMemo] = dataclasses.field(default_factory=dict)

    def forward_for(self, call: Call) -> Callable[..., Any]:
        """The forward that serves a call, from a plan that exists or one that is made now.

        Raises:
            AutockptError: See ``optimize``.
        """
        forward = self.store.forward(call.key)
        if forward is None:
            if call.parallel is None:
                forward = self._by_a_stored_plan(call.key) or self._by_a_new_plan(call)
            else:
                forward = self._by_an_agreed_plan(call, call.parallel)
            self.store.set_forward(call.key, forward)
        return forward

    def _by_a_stored_plan(self, key: PlanKey) -> Callable[..., Any] | None:
        serving = self.store.serving(key)
        if serving is None:
            return None
        forward = self.store.forward(serving)
        if forward is None:
            forward = self._following(self.store.plan(serving), None)
            self.store.set_forward(serving, forward)
        return forward

    def _by_an_agreed_plan(self, call: Call, parallel: Parallel) -> Callable[..., Any]:
        """Follow the plan that one rank makes for all that have these inputs."""
        made: list[Callable[..., Any]] = []

        def plan() -> tuple[ExecutablePlan | None, Plan | None]:
            if call.key not in self.store:
                with parallel.out_of_the_way(self.module):
                    made.append(self._by_a_new_plan(call))
            return self.store.plan(call.key), self.store.latest

        question = (call.key, str(self.request.budget), self.store.num_stale)
        executable, latest = parallel.ranks.agree(question, plan)
        self.store.add_agreed(call.key, executable, latest)
        return made[0] if made else self._following(executable, parallel)

    def _by_a_new_plan(self, call: Call) -> Callable[..., Any]:
        with progress.planning(type(self.module).__name__, is_shown=self.request.progress):
            return self._planned(call)

    def _planned(self, call: Call) -> Callable[..., Any]:
        self._know_share(call)
        names = self._names_if_kept(call)
        accepted, bucket = self._kept(call, names)
        where = "kept from an earlier process"
        if accepted is None:
            where = ""
            try:
                accepted, bucket = self.new(call)
            except AutockptError as error:
                # A loop of another kind has trained until here, and goes on with a warning.
                plain = dataclasses.replace(call.key, loop=PLAIN)
                is_known = call.key != plain and self.store.serving(plain) is not None
                is_new = call.key.loop.needs_no_more and not is_known
                if is_new or self.store.latest is None or not leads_down(error):
                    raise
                if isinstance(error, BudgetError):
                    accepted = self._leanest(call, error)
                else:
                    accepted = self._as_it_is(call)
                drop_frames(error)
                bucket, names = None, {}
            if bucket in names:
                file = self.keep(names[bucket], accepted)
                where = "" if file is None else f"kept in {file}"
        self.store.add(call.key, accepted, bucket)
        progress.finish("; ".join(filter(None, (outcome(accepted.plan), where))))
        if warning := cost_warning(accepted.plan):
            warn_user(warning)
        if len(self.store) == _MANY_PLANS:
            why = why_many(self.store.keys())
            warn_user(many_plans_warning(type(self.module).__name__, _MANY_PLANS, why))
        return accepted.forward

    def _leanest(self, call: Call, error: BudgetError) -> AcceptedPlan:
        """The plan that needs the least, for a kind of loop that leaves too little room.

        Raises:
            BudgetError: No plan holds what the error names.
        """
        budget_bytes, accepted = error.minimum_peak_bytes, None
        for _ in range(_MOST_LEANEST):
            try:
                rungs = self._rungs(call, budget=Budget(bytes=budget_bytes))
                accepted = self.ladder.descend(rungs)
                break
            except BudgetError as raised:
                budget_bytes = raised.minimum_peak_bytes  # a step was measured to need more
                drop_frames(raised)
        if accepted is None:
            raise error
        plan = dataclasses.replace(accepted.plan, notes=(*accepted.plan.notes, _OVER_BUDGET))
        peak_bytes = plan.peak_bytes
        warn_user(leanest_warning(call.key.loop.reason, error, peak_bytes))
        return dataclasses.replace(accepted, plan=plan)

    def _as_it_is(self, call: Call) -> AcceptedPlan:
        """The model as it is, for a kind of loop that no rung serves."""
        step = self.step_of(call)
        try:
            plan = eager_plan(step)
        except BudgetError as error:
            budget = Budget(bytes=error.minimum_peak_bytes)
            request = dataclasses.replace(step.request, budget=budget)
            plan = eager_plan(dataclasses.replace(step, request=request))
            plan = dataclasses.replace(plan, notes=(*plan.notes, _OVER_BUDGET))
            warn_user(leanest_warning(call.key.loop.reason, error, plan.predicted_peak_bytes))
        return AcceptedPlan(plan=plan, executable=None, forward=self.forward)

    def name_if_kept(self, call: Call) -> str | None:
        """What a plan for exactly this call is kept as; None if it is not kept."""
        return self._names_if_kept(call).get(None)

    def _names_if_kept(self, call: Call) -> dict[Bucket | None, str]:
        """What plans for this call are kept as, by bucket; None is a plan for these sizes alone.

        If sizes vary, a plan for a bucket serves more inputs than one that was kept for a size.
        """
        buckets: list[Bucket | None] = [*self._candidates(call)]
        request = self._request_for(call)
        if self.store.held_back_bytes:
            return {}  # the next process may need no less
        if request.given or not are_kept() or acts_on_parameters(self.module):
            return {}
        buckets_bytes = 0 if call.parallel is None else call.parallel.buckets_bytes

        def name_of(bucket: Bucket | None) -> str | None:
            key = call.key if bucket is None else call.key.for_bucket(bucket)
            return identity(self.module, self.forward, key, request, buckets_bytes=buckets_bytes)

        named = {b: unless_a_bug(functools.partial(name_of, b)) for b in buckets or [None]}
        return {bucket: name for bucket, name in named.items() if name is not None}

    def _kept(
        self, call: Call, names: Mapping[Bucket | None, str]
    ) -> tuple[AcceptedPlan | None, Bucket | None]:
        """The plan that was kept for this call, if it still serves, and its bucket."""
        for bucket, name in names.items():
            accepted = self._kept_as(name, call, bucket)
            if accepted is not None:
                return accepted, bucket
        return None, None

    def _kept_as(self, name: str, call: Call, bucket: Bucket | None) -> AcceptedPlan | None:
        kept = load(name)
        if kept is None:
            return None
        if self.store.needs_eager_graph(call.key) and not isinstance(
            kept.program, CheckpointedCalls
        ):
            return None
        if not kept.is_searched_enough(self.request):
            return None
        trial = self.trial_of(call, self.step_of(call), is_exact=bucket is None)
        can_wait = call.parallel is None and bucket is None
        accepted = accept_kept(trial, kept, can_wait=can_wait)
        if accepted is None:
            return None
        self.ladder.know(kept.reason, kept.given_up)
        if accepted.is_verified and not kept.is_verified:
            # The next process need not compare bits again.
            verified = dataclasses.replace(kept, plan=accepted.plan, is_verified=True)
            unless_a_bug(lambda: keep(name, verified))
        note = kept.note(is_verified=accepted.is_verified)
        plan = dataclasses.replace(accepted.plan, notes=(*accepted.plan.notes, note))
        self._tell_rung(plan)
        return dataclasses.replace(accepted, plan=plan)

    def keep(self, name: str, accepted: AcceptedPlan) -> Path | None:
        """Keep a plan on disk; return its file, None if it is not kept."""
        if self.ladder.met_bug:
            return None
        executable = accepted.executable
        kept = KeptPlan(
            plan=accepted.plan,
            program=None if executable is None else executable.program,
            is_verified=accepted.is_verified,
            time_limit_s=self.request.kept_limit_s,
            reason=self.ladder.reason,
            given_up=self.ladder.given_up,
        )
        return unless_a_bug(lambda: keep(name, kept))

    def new(self, call: Call) -> tuple[AcceptedPlan, Bucket | None]:
        """A plan that also serves smaller inputs, and its bucket; or one for this layout.

        Raises:
            AutockptError: See ``optimize``.
        """
        held_back_bytes = self.store.held_back_bytes
        buckets = self._candidates(call)
        while buckets:
            bucket = buckets.pop(0)
            try:
                accepted = self.ladder.descend(self._rungs(call, bucket))
                return with_held_back(accepted, held_back_bytes), bucket
            except AutockptError as error:
                if not leads_down(error):
                    raise
                too_small = error.budget_bytes if isinstance(error, BudgetError) else None
                self.store.fail(call.key, bucket, budget_bytes=too_small)
                if too_small is None:
                    buckets = buckets[-1:]  # other inputs that are made up would not help
        return with_held_back(self._exactly(call), held_back_bytes), None

    def _candidates(self, call: Call) -> list[Bucket]:
        """Buckets to try; none without a capture.

        Ranks agree about layouts, so theirs are planned exactly.
        """
        budget = self._request_for(call).budget
        found = self.store.candidates(
            call.key,
            # A percentage refers to the peak of a step that really runs.
            rounds_up=self.request.budget.percent is None or self.request.budget.is_of_device,
            budget_bytes=None if budget.bytes is None else budget.resolve(0),
        )
        captures = self._captures(call.key) and not self.ladder.has_given_up("whole")
        return found if captures and not call.key.is_parallel else []

    def _know_share(self, call: Call) -> None:
        """Find out what a share of eager's peak is, before plans for larger inputs are made."""
        is_known = self._request_for(call).budget.percent is None or call.key != call.key.plain
        sizes = call.key.layout.sizes
        if is_known or all(bucket.sizes == sizes for bucket in self._candidates(call)):
            return
        try:
            planner = GraphPlanner.capture(self.step_of(call))
        except AutockptError as error:
            if not leads_down(error):
                raise
            return
        call.planners["whole"] = planner
        self.store.know_budget(call.key, planner.budget_bytes + self.store.held_back_bytes)

    def _captures(self, key: PlanKey) -> bool:
        """Whether graphs of such a call may be planned."""
        return not key.has_global_hooks and not self.store.needs_eager_graph(key)

    def _exactly(self, call: Call) -> AcceptedPlan:
        """A plan for inputs of exactly this layout."""
        reason_before = self.ladder.reason
        accepted = self.ladder.descend(self._rungs(call))
        plan = self.ladder.explained(accepted.plan)
        if not reason_before:
            self._tell_rung(plan)
        return dataclasses.replace(accepted, plan=plan)

    def _tell_rung(self, plan: Plan) -> None:
        if self.ladder.reason:
            warn_user(
                f'{type(self.module).__name__} falls back to the rung "{plan.rung}".\n'
                f"{self.ladder.main_reason}\n"
                "Change that code, or move it out of the forward; get_plan(model).notes has the "
                "reasons in full."
            )

    def _rungs(
        self, call: Call, bucket: Bucket | None = None, *, budget: Budget | None = None
    ) -> Iterator[Rung[AcceptedPlan]]:
        """Ways to run a step within the budget, best first; ``budget`` replaces the call's."""
        step = self.step_of(call)
        if budget is not None:
            request = dataclasses.replace(step.request, budget=budget)
            step = dataclasses.replace(step, request=request)
        trial = self.trial_of(call, step, is_exact=bucket is None)
        planned = step
        if bucket is not None:
            args, kwargs = resized(call.args, call.kwargs, call.key.layout, bucket.sizes)
            planned = dataclasses.replace(step, args=args, kwargs=kwargs, varying=bucket.varying)

        def run_as_it_is() -> AcceptedPlan:
            return AcceptedPlan(plan=eager_plan(step), executable=None, forward=self.forward)

        rungs = rungs_of(
            planned,
            trial.accept,
            pieces=call.pieces,
            whole_alone=bucket is not None,
            captures=self._captures(call.key),
            run_as_it_is=run_as_it_is if self.verify or step.request.given else None,
            known=call.planners if bucket is None else None,
        )
        return rungs if step.request.given is None else only_rung(rungs, step.request.given.rung)

    def step_of(self, call: Call) -> StepToPlan:
        """The training step that a call begins."""
        parallel = call.parallel
        return StepToPlan(
            module=self.module,
            forward=self.forward,
            args=call.args,
            kwargs=call.kwargs,
            request=self._request_for(call),
            loop=call.key.loop,
            buckets_bytes=0 if parallel is None else parallel.buckets_bytes,
            solving=call.solving,
            memo=self._memo(call.key),
        )

    def _memo(self, key: PlanKey) -> TraceMemo | None:
        """The trace that plans of one call for different loops have in common; only the latest."""
        if key.is_parallel or key.loop.accumulates:
            return None
        loop = dataclasses.replace(PLAIN, used_outputs=key.loop.used_outputs)
        base = dataclasses.replace(key, loop=loop), modes_and_hooks(self.module)
        if base not in self.memos:
            self.memos.clear()
            self.memos[base] = TraceMemo()
        return self.memos[base]

    def trial_of(self, call: Call, step: StepToPlan, *, is_exact: bool) -> Trial:
        """What tries plans for a call."""
        return Trial(
            step=step,
            is_exact=is_exact,
            verify=self.verify,
            follow=lambda executable: self._following(executable, call.parallel),
        )

    def _request_for(self, call: Call) -> Request:
        return request_for(call, self.request, self.module, self.store)

    def _following(
        self, executable: ExecutablePlan | None, parallel: Parallel | None
    ) -> Callable[..., Any]:
        if executable is None:
            return self.forward
        in_order = parallel is not None and parallel.reduces_on_the_way
        return executable.forward_of(self.module, self.forward, in_order=in_order)
