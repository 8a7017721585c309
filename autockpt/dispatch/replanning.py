"""How a call is planned again whose plan does not serve its step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from autockpt import progress
from autockpt.dispatch.call import Call
from autockpt.dispatch.kept import KeptPlan, forget
from autockpt.dispatch.kept_trial import accept_kept
from autockpt.dispatch.maker import PlanMaker
from autockpt.dispatch.trial import AcceptedPlan
from autockpt.errors import AutockptError
from autockpt.ladder.executable import changing, is_twice
from autockpt.ladder.ladder import leads_down
from autockpt.report.plan import Plan
from autockpt.report.words.outcome import outcome
from autockpt.user_warnings import warn_user

_MAX_STALE = 4  # plans given up because the code took another path, before rungs are given up


def without_kept(maker: PlanMaker, call: Call) -> Callable[..., Any]:
    """Plan a call anew whose kept plan turned out to be for other graphs."""
    name = maker.name_if_kept(call)
    if name is not None:
        forget(name)
    maker.store.drop(call.key)
    return maker.forward_for(call)


def replan(maker: PlanMaker, call: Call) -> None:
    """Plan a call again, because its plan does not serve the step.

    The model's code has taken another path, which leads to another plan a few times. Or a
    backward is differentiated again, which a graph cannot be. Or every call compiles anew: what
    changes is left open in the graphs of the plan, if it can be; otherwise no capture holds.
    """
    if is_twice(maker.store.forward(call.key)):
        maker.store.require_eager_graph(call.key.layout.kind)
        return
    if changing(maker.store.forward(call.key)):
        _replan_changing(maker, call)
        return
    maker.memos.clear()
    maker.store.forget(call.key, max_stale=_MAX_STALE)
    if maker.store.num_stale >= _MAX_STALE:
        for rung in ("whole", "blocks"):
            maker.ladder.give_up(rung, "its code takes another path from call to call")


def _replan_changing(maker: PlanMaker, call: Call) -> None:
    """Let a call follow a plan that holds though something changes at every call."""
    what = changing(maker.store.forward(call.key))
    name = maker.name_if_kept(call)
    if name is not None:
        forget(name)
    accepted = _with_open_numbers(maker, call)
    if accepted is not None:
        maker.store.replace(call.key, accepted)
        if name is not None:
            maker.keep(name, accepted)
        return
    before, ladder = maker.store.stored(), maker.ladder.copy()
    forwards = maker.store.forget_all()
    maker.store.num_stale += 1
    for rung in ("whole", "blocks"):
        maker.ladder.give_up(rung, f"{what}, and each change is compiled anew")
    try:
        maker.forward_for(call)
    except AutockptError as error:
        if not leads_down(error):
            raise
        maker.store.put_back(before, forwards)
        maker.ladder.know(ladder.reason, ladder.given_up, forgets=True)
        warn_user(
            f"{what}, so that every call of {type(maker.module).__name__} is compiled anew, "
            f"which takes time. No other plan fits: {error} Keep the value in a tensor (a "
            "buffer), or outside of the forward."
        )


def _with_open_numbers(maker: PlanMaker, call: Call) -> AcceptedPlan | None:
    """The plan of a call with Python numbers left open; None if it is not the same step."""
    executable = maker.store.plan_of(call.key)
    opened = None if executable is None else executable.with_open_numbers()
    if opened is None or call.parallel is not None:
        return None
    kept = KeptPlan(
        plan=opened.plan,
        program=opened.program,
        is_verified=False,
        time_limit_s=maker.request.time_limit_s,
        reason="",
        given_up={},
    )
    with progress.planning(type(maker.module).__name__, is_shown=maker.request.progress):
        trial = maker.trial_of(call, maker.step_of(call), is_exact=False)
        return accept_kept(trial, kept, can_wait=False)


def tighten(maker: PlanMaker, call: Call, held_back_bytes: int, *, tries: bool = True) -> Plan:
    """Give up all plans, and plan a call with a part of the budget held back; so are later ones.

    Args:
        maker: Makes the plans of the module.
        call: The call.
        held_back_bytes: What is deducted from the budget.
        tries: Whether to try the plan on real steps, if that was asked for at all.

    Raises:
        AutockptError: No such plan was found. All plans are as they were.
        torch.OutOfMemoryError: The plan cannot be tried.
    """
    store, before_bytes = maker.store, maker.store.held_back_bytes
    store.held_back_bytes = held_back_bytes
    maker.memos.clear()
    trying = dataclasses.replace(maker, verify=maker.verify and tries)
    try:
        with progress.planning(type(maker.module).__name__, is_shown=maker.request.progress):
            accepted, bucket = trying.new(call)
            progress.finish(outcome(accepted.plan))
    except BaseException:
        store.held_back_bytes = before_bytes
        raise
    store.forget_all()
    store.add(call.key, accepted, bucket)
    store.set_forward(call.key, accepted.forward)
    return accepted.plan
