"""A plan on trial: its step compared with eager's, its measured peak with the budget."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from autockpt import progress
from autockpt.budget import format_bytes
from autockpt.capture.compiled import CompiledForward
from autockpt.errors import (
    AutockptError,
    BudgetError,
    CaptureError,
    VerificationError,
)
from autockpt.ladder.executable import ExecutablePlan, is_stale
from autockpt.ladder.planner import StepPlanner
from autockpt.ladder.step import StepToPlan, eager_failures
from autockpt.report.plan import Plan
from autockpt.user_signals import handlers_code, is_by_a_handler
from autockpt.verify.bits import differences
from autockpt.verify.peak import available_bytes
from autockpt.verify.step import Step, StepRecord, acts_on_parameters

_MAX_CORRECTIONS = 3  # plans made anew because a step exceeded its prediction
_MOVES_PARAMETERS = "not verified: a step changes parameters by itself (hooks, max_norm)"
_NOT_COMPARED = "not compared with eager: verify=False"
_DOES_NOT_FIT = "not compared with eager, which does not fit in the free memory"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedPlan:
    """A plan that has passed its trial.

    Attributes:
        plan: The plan, with what was measured.
        executable: What it takes to follow it again; None if the model runs as it is.
        forward: The forward that follows it.
        is_verified: Whether its bits were compared with eager's, and its peak with the budget.
    """

    plan: Plan
    executable: ExecutablePlan | None
    forward: Callable[..., Any]
    is_verified: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Reference:
    """Eager's step, to compare with.

    Attributes:
        record: What it gave; None if it was not run.
        peak_bytes: Its measured peak, everything counted.
        notes: What a plan is to say about the comparison.
    """

    record: StepRecord | None = None
    peak_bytes: int = 0
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Makes a module follow a plan, and tries it on real inputs.

    Attributes:
        step: A real step, with inputs no larger than the ones that are planned for.
        is_exact: Whether plans are for inputs of exactly these sizes.
        verify: Whether to try at all.
        follow: Makes a forward that follows a plan.
    """

    step: StepToPlan
    is_exact: bool
    verify: bool
    follow: Callable[[ExecutablePlan], Callable[..., Any]]

    def accept(self, planner: StepPlanner) -> AcceptedPlan:
        """Plan a step and make the module follow the plan; verify it if that was asked for.

        What was captured is compared with eager before anything is solved: a capture that is not
        the model's step has no use for a plan.

        Raises:
            BudgetError: No plan fits.
            CaptureError: The model cannot run on these inputs, or not by a plan.
            InternalError: A bug in autockpt.
            VerificationError: The step is not bit-equal to eager's, or exceeds the budget.
        """
        if planner.is_fake:
            raise CaptureError(
                where=self.step.model_name,
                reason="its parameters or inputs are fake or meta tensors, which cannot train",
                advice="Use autockpt.plan, which needs no data.",
            )
        if acts_on_parameters(self.step.module):
            return self._untried(planner, _MOVES_PARAMETERS if self.verify else _NOT_COMPARED)
        # A refusal does not wait for a step to run, if the least that it names needs no trial.
        at_once = planner.is_complete and planner.is_refused_at_once
        planned = planner.plan() if at_once else None
        if planner.is_complete and not self.verify:
            return self._unverified(planner)
        if not self.is_exact and planner.budget_bytes >= planner.baseline_peak_bytes:
            return self._as_it_is(planner.untouched().as_it_is())
        eager = self.step.on(planner.device)
        reference = self._reference(planner, eager)
        is_given = self.step.request.given is not None
        fits = reference.record is not None and reference.peak_bytes <= planner.budget_bytes
        if self.is_exact and fits and not is_given:
            return self._as_it_is(_measured_as_it_is(planner, reference))
        compiled = self._compared(planner, eager, reference)
        try:
            executable = planned or planner.plan()
        except BudgetError as error:
            names_least = self.verify and self.is_exact and not is_given
            if not names_least or (planner.is_complete and error.is_proven):
                raise
            raise self._measured(error, planner, eager, reference, compiled) from error
        return self._verified(planner, executable, eager, reference, compiled)

    def _unverified(self, planner: StepPlanner) -> AcceptedPlan:
        """Plan without comparing; a model that may run as it is has its memory measured first.

        What eager needs is only estimated from the graph, and Fourier transforms hold more.
        """
        accepted = self._untried(planner, _NOT_COMPARED)
        if accepted.executable is not None or self.step.request.given is not None:
            return accepted
        eager = self.step.on(planner.device)
        record = self.record_of_eager(eager, planner.baseline_peak_bytes)
        if record is None:
            return accepted
        excess_bytes = planner.fixed_bytes + record.peak_bytes - planner.budget_bytes
        if excess_bytes <= 0:
            return accepted
        executable = planner.unplanned()
        if executable is None or executable.plan.predicted_peak_bytes > planner.budget_bytes:
            executable = planner.plan(held_back_bytes=excess_bytes)
        return self._followed(executable, _NOT_COMPARED)

    def _untried(self, planner: StepPlanner, note: str) -> AcceptedPlan:
        executable = planner.plan()
        plan = executable.plan
        if plan.leaves_the_model:
            return self._as_it_is(plan.as_it_is())
        return self._followed(executable, note)

    def _followed(self, executable: ExecutablePlan, note: str) -> AcceptedPlan:
        plan = executable.plan
        return AcceptedPlan(
            plan=dataclasses.replace(plan, notes=(*plan.notes, note)),
            executable=executable.without_module(),
            forward=self.follow(executable),
        )

    def _as_it_is(self, plan: Plan) -> AcceptedPlan:
        plan = dataclasses.replace(plan, rung="eager")
        is_measured = plan.measured_peak_bytes is not None
        return AcceptedPlan(
            plan=plan, executable=None, forward=self.step.forward, is_verified=is_measured
        )

    def _reference(self, planner: StepPlanner, eager: Step) -> _Reference:
        """Run eager's step, if that is asked for and fits in the free memory.

        Raises:
            CaptureError: The step fails.
        """
        if not (self.verify or planner.budget_bytes >= planner.baseline_peak_bytes):
            return _Reference(notes=(_NOT_COMPARED,))
        record = self.record_of_eager(eager, planner.baseline_peak_bytes)
        if record is None:
            return _Reference(notes=(_DOES_NOT_FIT,))
        with eager_failures(eager, stage="verify"):
            other_bytes = 0 if planner.is_complete else eager.peak_bytes_of_other_draws(record)
        peak_bytes = planner.fixed_bytes + max(record.peak_bytes, other_bytes)
        return _Reference(record=record, peak_bytes=peak_bytes)

    def record_of_eager(self, eager: Step, peak_bytes: int) -> StepRecord | None:
        """What eager's step gives; None if it does not fit in the free memory.

        Raises:
            CaptureError: The step fails.
        """
        if peak_bytes >= available_bytes(eager.device):
            return None
        progress.stage("running eager's step")
        with eager_failures(eager, stage="verify"):
            return eager.record(warm_up=False)

    def _compared(
        self, planner: StepPlanner, eager: Step, reference: _Reference
    ) -> CompiledForward | None:
        """Compare what was captured with eager, with nothing recomputed; return what was compiled.

        Raises:
            CaptureError: Other graphs turn up than the ones that were captured.
            VerificationError: The step fails, or is not bit-equal.
        """
        unplanned = planner.unplanned()
        if unplanned is None or not self.verify or reference.record is None:
            return None
        progress.stage("comparing what was captured with eager")
        forward = self.follow(unplanned)
        run = dataclasses.replace(eager, forward=forward)
        with ready_for_other_graphs(are_expected=True):
            got = _recorded(run, is_eager_known=True, warm_up=False, measures_peak=False)
        if is_stale(forward):
            raise CaptureError(
                where=self.step.model_name,
                reason="its code takes another path when it runs than when it is traced",
            )
        differing = differences(reference.record, got)
        if differing:
            raise VerificationError(
                "what was captured is not bit-equal to eager's step", differing=differing
            )
        return getattr(forward, "compiled", None)

    def _measured(
        self,
        error: BudgetError,
        planner: StepPlanner,
        eager: Step,
        reference: _Reference,
        compiled: CompiledForward | None,
    ) -> BudgetError:
        """The error with a smallest budget within which a step was measured.

        Raises:
            VerificationError: A step at that budget is not bit-equal to eager's.
        """
        least = error
        for _ in range(_MAX_CORRECTIONS):
            at_least = planner.with_budget(least.minimum_peak_bytes)
            try:
                executable = at_least.plan()
                if least.minimum_peak_bytes <= available_bytes(eager.device):
                    self._verified(at_least, executable, eager, reference, compiled)
                break
            except BudgetError as raised:
                least = raised
        return least.of_budget(error.budget_bytes)

    def _verified(
        self,
        planner: StepPlanner,
        executable: ExecutablePlan,
        eager: Step,
        reference: _Reference,
        compiled: CompiledForward | None,
    ) -> AcceptedPlan:
        """Compare the plan with real steps, and tighten it if more is measured than predicted.

        If no plan holds the prediction, the leanest is measured: the error names what it takes, so
        that it fits when that is the budget.

        Without verification only the memory is measured, and only if the plan has to estimate what
        stays between graphs or calls.
        """
        budget_bytes = planner.budget_bytes
        held_back_bytes = 0
        is_given = self.step.request.given is not None
        num_corrections = 0 if is_given else _MAX_CORRECTIONS
        least: BudgetError | None = None
        for number in range(num_corrections + 1):
            if number:
                try:
                    executable = planner.plan(held_back_bytes=held_back_bytes)
                except BudgetError as error:
                    # The leanest plan may miss its prediction by less, and has the last word.
                    least = error
                    at_least = planner.with_budget(error.minimum_peak_bytes - held_back_bytes)
                    executable = at_least.plan()
            progress.stage(f"trying the plan{f', attempt {number + 1}' if number else ''}")
            known = executable.compiled or compiled
            forward = self.follow(dataclasses.replace(executable, compiled=known))
            run = dataclasses.replace(eager, forward=forward)
            compiled = getattr(forward, "compiled", None)
            is_new = compiled is None or compiled is not known
            step_bytes = self._peak_bytes(planner, run, reference, warm_up=is_new)
            measured_bytes = planner.fixed_bytes + step_bytes
            excess_bytes = measured_bytes - budget_bytes
            plan = executable.plan
            if excess_bytes <= 0:
                notes = (*plan.notes, *reference.notes, *self._size_notes(measured_bytes))
                plan = dataclasses.replace(
                    plan,
                    budget_bytes=budget_bytes,
                    minimum_peak_bytes=plan.minimum_peak_bytes
                    + max(0, measured_bytes - plan.predicted_peak_bytes),
                    measured_peak_bytes=measured_bytes if self.is_exact else None,
                    notes=notes,
                )
                return AcceptedPlan(
                    plan=plan,
                    executable=executable.without_module(),
                    forward=forward,
                    is_verified=self.verify and reference.record is not None,
                )
            if least is not None:
                raise least.measured(budget_bytes, measured_bytes) from least
            # A plan that misses its prediction by as much must fit as well.
            error_bytes = measured_bytes - plan.predicted_peak_bytes
            held_back_bytes = max(held_back_bytes + excess_bytes, error_bytes)
        raise VerificationError(
            f"{'with the given plan' if is_given else f'after {num_corrections} corrections'} a "
            f"step is measured at {format_bytes(measured_bytes)}, over the budget of "
            f"{format_bytes(budget_bytes)}"
        )

    def _size_notes(self, measured_bytes: int) -> tuple[str, ...]:
        """What to say of a measured peak that may be that of smaller inputs."""
        if self.is_exact:
            return ()
        return (f"a step whose inputs may be smaller peaked at {format_bytes(measured_bytes)}",)

    def _peak_bytes(
        self, planner: StepPlanner, run: Step, reference: _Reference, *, warm_up: bool
    ) -> int:
        """The measured peak of a planned step, which must be bit-equal to eager's.

        Raises:
            CaptureError: Other graphs turn up than the ones that were planned.
            VerificationError: The step fails, or is not bit-equal.
        """
        with ready_for_other_graphs(are_expected=not self.is_exact):
            got = _recorded(run, is_eager_known=reference.record is not None, warm_up=warm_up)
        if not self.is_exact and is_stale(run.forward):
            raise CaptureError(
                where=self.step.model_name,
                reason="it has another graph if sizes of inputs are left open",
            )
        if self.verify and reference.record is not None:
            differing = differences(reference.record, got)
            if differing:
                raise VerificationError("a step is not bit-equal to eager's", differing=differing)
        other_bytes = 0 if planner.is_complete else self._peak_bytes_of_other_draws(run, got)
        return max(got.peak_bytes, other_bytes)

    def _peak_bytes_of_other_draws(self, run: Step, record: StepRecord) -> int:
        was_stale = is_stale(run.forward)
        with ready_for_other_graphs(are_expected=True):
            peak_bytes = run.peak_bytes_of_other_draws(record)
        if is_stale(run.forward) and not was_stale:
            raise CaptureError(
                where=self.step.model_name,
                reason="its graphs are other ones from draw to draw",
            )
        return peak_bytes


def _measured_as_it_is(planner: StepPlanner, reference: _Reference) -> Plan:
    note = "eager PyTorch was measured within the budget: nothing to do"
    untouched = planner.untouched()
    plan = untouched.as_it_is()
    if not planner.is_complete:  # what was measured is the better prediction
        least_bytes = min(plan.minimum_peak_bytes, reference.peak_bytes)
        plan = dataclasses.replace(
            plan,
            predicted_peak_bytes=reference.peak_bytes,
            minimum_peak_bytes=least_bytes,
            peak_parts=(),
        )
    return dataclasses.replace(
        plan,
        measured_peak_bytes=reference.peak_bytes,
        notes=(*untouched.notes, *reference.notes, note),
    )


def _recorded(
    run: Step, *, is_eager_known: bool, warm_up: bool, measures_peak: bool = True
) -> StepRecord:
    """Run a planned step.

    If it fails and eager's does not, the plan is to blame. If eager's did not run, the error may be
    the model's own, and comes out as it is.
    """
    handlers = handlers_code()
    try:
        return run.record(warm_up=warm_up, measures_peak=measures_peak)
    except (AutockptError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not is_eager_known or is_by_a_handler(error, handlers):
            raise
        raise VerificationError(
            f"a step fails where eager's does not, with {type(error).__name__}: {error}"
        ) from error


@contextlib.contextmanager
def ready_for_other_graphs(*, are_expected: bool) -> Iterator[None]:
    """Silence the warning about an unknown graph if other plans are tried then."""
    with warnings.catch_warnings():
        if are_expected:
            warnings.filterwarnings("ignore", message="a graph of the model is not in its plan")
        yield
