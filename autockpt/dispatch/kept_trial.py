"""A plan of another process on trial: followed at once if nothing can go wrong, tried otherwise."""

from __future__ import annotations

import dataclasses

import torch

from autockpt import progress
from autockpt.dispatch.kept import KeptPlan
from autockpt.dispatch.trial import AcceptedPlan, Trial, ready_for_other_graphs
from autockpt.errors import InternalError
from autockpt.ladder.executable import ExecutablePlan, is_one_graph, is_stale
from autockpt.ladder.ladder import leads_down
from autockpt.user_signals import handlers_code, is_by_a_handler
from autockpt.verify.bits import differences


def accept_kept(trial: Trial, kept: KeptPlan, *, can_wait: bool) -> AcceptedPlan | None:
    """Follow a plan that was accepted in another process, if it is for this step.

    If the plan has one graph, whose bits and peak were verified, the first call raises
    `OtherGraphError` before anything runs if the step has another. Otherwise what runs between
    graphs, or in modules, may be something else than then. So the step runs on copies first, is
    compared with eager, and measured.

    Args:
        trial: The step, and how it follows a plan.
        kept: The plan.
        can_wait: Whether the first call may turn out to need another plan.

    Returns:
        None if the step runs other graphs, fails, differs from eager, or exceeds the budget.
    """
    if can_wait and kept.is_verified and kept.program is not None and is_one_graph(kept.program):
        untried = ExecutablePlan(plan=kept.plan, program=kept.program, is_untried=True)
        forward = trial.follow(untried)
        return AcceptedPlan(plan=kept.plan, executable=untried, forward=forward, is_verified=True)
    handlers = handlers_code()
    try:
        return _tried(trial, kept)
    except Exception as error:
        is_bug = isinstance(error, InternalError) and not leads_down(error)
        if is_bug or is_by_a_handler(error, handlers):
            raise
        return None  # planning anew tells what is wrong


def _tried(trial: Trial, kept: KeptPlan) -> AcceptedPlan | None:
    plan, program = kept.plan, kept.program
    eager = trial.step.on(torch.device(plan.device))
    executable = None if program is None else ExecutablePlan(plan=plan, program=program)
    forward = trial.step.forward if executable is None else trial.follow(executable)
    expected = None
    if trial.verify and executable is not None:
        expected = trial.record_of_eager(eager, plan.baseline_peak_bytes)
    progress.stage("trying the kept plan")
    run = dataclasses.replace(eager, forward=forward)
    with ready_for_other_graphs(are_expected=True):
        got = run.record(warm_up=executable is not None)
    peak_bytes = plan.fixed.resting_bytes + trial.step.older_gradients_bytes + got.peak_bytes
    is_other = expected is not None and bool(differences(expected, got))
    if is_stale(forward) or is_other or peak_bytes > plan.budget_bytes:
        return None
    return AcceptedPlan(
        plan=dataclasses.replace(
            plan,
            measured_peak_bytes=peak_bytes if trial.is_exact else plan.measured_peak_bytes,
            rung=plan.rung if executable is not None else "eager",
        ),
        executable=executable,
        forward=forward,
        is_verified=expected is not None or executable is None,
    )
