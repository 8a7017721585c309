"""A plan on trial: its step beside eager's, bit by bit, its measured peak against the budget."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from autockpt.budget import format_bytes
from autockpt.errors import AutockptError, BudgetError, CaptureError, VerificationError
from autockpt.ladder.calls import CallPlanner
from autockpt.ladder.graphs import Planner
from autockpt.ladder.planned import Planned
from autockpt.report.plan import Plan
from autockpt.verify.bits import differences
from autockpt.verify.peak import available_bytes
from autockpt.verify.step import Step, StepRecord, acts_on_parameters

_MAX_CORRECTIONS = 3
_NOT_COMPARED = "not compared with eager: verify=False"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A plan, what it takes to follow it again (None for the original forward), the forward."""

    plan: Plan
    planned: Planned | None
    step: Callable[..., Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Makes a module follow a plan, and tries it on real inputs.

    Attributes:
        module: The model.
        forward: Its own forward.
        args: Positional inputs of a real step; no larger than what is planned for.
        kwargs: Keyword inputs.
        loss_fn: See ``optimize``.
        is_exact: Whether plans are for inputs of exactly these sizes.
        verify: Whether to try at all.
        follow_plan: Makes the module's forward follow a plan.
    """

    module: torch.nn.Module
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    loss_fn: Callable[[Any], torch.Tensor] | None
    is_exact: bool
    verify: bool
    follow_plan: Callable[[Planned], Callable[..., Any]]

    def follow(self, planner: Planner | CallPlanner) -> Followed:
        """Plan a step and make the module follow the plan; verify it where that was asked for.

        Raises:
            BudgetError: No plan fits.
            CaptureError: The model cannot be run on these inputs, or not by a plan.
            VerificationError: The step is not bit-equal to eager's, or takes more than the budget.
        """
        if planner.is_fake:
            raise CaptureError(
                where=type(self.module).__name__,
                reason="its parameters or inputs are fake or meta tensors, which cannot train",
                advice="Use autockpt.plan, which needs no data.",
            )
        moves_parameters = acts_on_parameters(self.module)
        try:
            planned = planner.plan()
        except BudgetError as error:
            if not self.verify or not self.is_exact or moves_parameters:
                raise
            raise self._measured(error, planner) from error
        plan = planned.plan
        must_run = self.verify or not planner.is_complete
        if plan.leaves_the_model and (moves_parameters or not (must_run and self.is_exact)):
            plan = dataclasses.replace(plan.as_it_is(), rung="eager")
            return Followed(plan=plan, planned=None, step=self.forward)
        note = ""
        if not self.verify:
            note = _NOT_COMPARED
        elif moves_parameters:
            note = "not verified: a step changes parameters by itself (hooks, max_norm)"
        if moves_parameters or not must_run:
            plan = dataclasses.replace(plan, notes=(*plan.notes, note))
            step = self.follow_plan(planned)
            return Followed(plan=plan, planned=planned, step=step)
        return self._verified(planner, planned)

    def _measured(self, error: BudgetError, planner: Planner | CallPlanner) -> BudgetError:
        """The error with a least that a step was measured to be within.

        Raises:
            VerificationError: A step at the least is not bit-equal to eager's.
        """
        least = error
        for _ in range(_MAX_CORRECTIONS):
            at_least = planner.with_budget(least.minimum_peak_bytes)
            try:
                planned = at_least.plan()
                if least.minimum_peak_bytes <= available_bytes(torch.device(planned.plan.device)):
                    self._verified(at_least, planned)
                break
            except BudgetError as raised:
                least = raised
        return least.of_budget(error.budget_bytes)

    def _verified(self, planner: Planner | CallPlanner, planned: Planned) -> Followed:
        """Hold the plan against real steps; tighten it where more was measured than predicted.

        Where nothing is to be verified only the memory is measured, of a plan that has to guess
        what stands between graphs or calls.
        """
        plan = planned.plan
        device = torch.device(plan.device)
        eager = Step(
            module=self.module,
            forward=self.forward,
            args=self.args,
            kwargs=self.kwargs,
            loss_fn=self.loss_fn,
            device=device,
            accumulates=planner.accumulates,
        )
        expected = None
        standing_bytes = plan.fixed.total_bytes + planner.older_gradients_bytes
        notes = plan.notes
        if not (self.verify or plan.budget_bytes >= plan.baseline_peak_bytes):
            notes = (*notes, _NOT_COMPARED)
        elif plan.baseline_peak_bytes < available_bytes(device):
            try:
                expected = eager.record(warm_up=False)
            except Exception as error:
                raise CaptureError(
                    where=type(self.module).__name__,
                    reason=f"its own forward fails on these inputs: {error}",
                ) from error
            other_bytes = 0 if planner.is_complete else eager.peak_bytes_of_other_draws(expected)
            eager_peak_bytes = standing_bytes + max(expected.peak_bytes, other_bytes)
            if self.is_exact and eager_peak_bytes <= plan.budget_bytes:
                note = "eager PyTorch was measured within the budget: nothing to do"
                untouched = dataclasses.replace(
                    planner.untouched().as_it_is(),
                    rung="eager",
                    measured_peak_bytes=eager_peak_bytes,
                    notes=(*notes, note),
                )
                return Followed(plan=untouched, planned=None, step=self.forward)
        else:
            notes = (*notes, "not compared with eager, which does not fit in the free memory")
        held_back_bytes = 0
        for number in range(_MAX_CORRECTIONS + 1):
            if number:
                planned = planner.plan(held_back_bytes=held_back_bytes)
            step = self.follow_plan(planned)
            with _prepared_for_other_graphs(are_expected=not self.is_exact):
                run = dataclasses.replace(eager, forward=step)
                got = _recorded(run, is_eager_known=expected is not None)
            if not self.is_exact and _is_stale(step):
                raise CaptureError(
                    where=type(self.module).__name__,
                    reason="its graph is another one when sizes of inputs are left open",
                )
            differing: tuple[str, ...] = ()
            if self.verify and expected is not None:
                differing = differences(expected, got)
            if differing:
                raise VerificationError("a step is not bit-equal to eager's", differing=differing)
            other_bytes = 0 if planner.is_complete else self._peak_of_other_draws(run, got)
            measured_bytes = standing_bytes + max(got.peak_bytes, other_bytes)
            excess_bytes = measured_bytes - plan.budget_bytes
            if excess_bytes <= 0:
                measured = dataclasses.replace(
                    planned.plan, measured_peak_bytes=measured_bytes, notes=notes
                )
                return Followed(plan=measured, planned=planned, step=step)
            # A plan that differs from its prediction by as much must fit as well.
            error_bytes = measured_bytes - planned.plan.predicted_peak_bytes
            held_back_bytes = max(held_back_bytes + excess_bytes, error_bytes)
        raise VerificationError(
            f"after {_MAX_CORRECTIONS} corrections a step is measured at "
            f"{format_bytes(measured_bytes)}, over the budget of {format_bytes(plan.budget_bytes)}"
        )

    def _peak_of_other_draws(self, run: Step, record: StepRecord) -> int:
        was_stale = _is_stale(run.forward)
        with _prepared_for_other_graphs(are_expected=True):
            peak_bytes = run.peak_bytes_of_other_draws(record)
        if _is_stale(run.forward) and not was_stale:
            raise CaptureError(
                where=type(self.module).__name__,
                reason="its graphs are other ones from draw to draw",
            )
        return peak_bytes


def _recorded(run: Step, *, is_eager_known: bool) -> StepRecord:
    """A planned step; what it fails of is the plan's own matter where eager's step runs."""
    try:
        return run.record(warm_up=True)
    except (AutockptError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not is_eager_known:
            raise
        raise VerificationError(
            f"a step fails where eager's does not, with {type(error).__name__}: {error}"
        ) from error


def _is_stale(step: Callable[..., Any]) -> bool:
    return bool(getattr(step, "is_stale", False))


@contextlib.contextmanager
def _prepared_for_other_graphs(*, are_expected: bool) -> Iterator[None]:
    """Where an unknown graph is no surprise, other plans are tried then."""
    with warnings.catch_warnings():
        if are_expected:
            warnings.filterwarnings("ignore", message="a graph of the model is not in its plan")
        yield
