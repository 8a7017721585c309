"""A plan as a value: what `optimize` would follow, for a model that stays as it is.

It shares the kept plans of `optimize`: each finds what the other kept. A plan that was only planned
is not verified, so the process that trains by it compares it with eager first.
"""

from __future__ import annotations

import dataclasses

from autockpt import progress
from autockpt.capture.fakes import holds_no_data
from autockpt.dispatch.identity import identity
from autockpt.dispatch.kept import KeptPlan, are_kept, keep, load, unless_a_bug
from autockpt.dispatch.key import plan_key
from autockpt.dispatch.layout import layout_of
from autockpt.errors import AutockptError, PlanMismatchError
from autockpt.ladder.executable import ExecutablePlan
from autockpt.ladder.ladder import Ladder, leads_down
from autockpt.ladder.planner import StepPlanner
from autockpt.ladder.rungs import only_rung, rungs_of
from autockpt.ladder.step import StepToPlan
from autockpt.lower.difference import first_difference
from autockpt.report.plan import Plan
from autockpt.report.words.outcome import outcome
from autockpt.request import Request
from autockpt.verify.inputs import input_leaves
from autockpt.verify.step import acts_on_parameters
from autockpt_solvers import ComputeGraph


def plan_only(step: StepToPlan) -> Plan:
    """The plan for a step, from disk if one is kept, and kept if it is new.

    Raises:
        AutockptError: See ``autockpt.plan``.
    """
    request = step.request
    name = _name_if_kept(step)
    planners: dict[str, StepPlanner] = {}
    made = None if name is None else _kept(step, name, planners)
    where = "kept from an earlier process"
    if made is None:
        ladder = Ladder()
        executable = ladder.descend(rungs_of(step, _planned, known=planners))
        plan = executable.plan
        made = ladder.explained(plan.as_it_is() if plan.leaves_the_model else plan)
        where = "" if name is None else _keep(name, made, executable, request, ladder)
    progress.finish("; ".join(filter(None, (outcome(made), where))))
    return made


def _planned(planner: StepPlanner) -> ExecutablePlan:
    return planner.plan()


def _name_if_kept(step: StepToPlan) -> str | None:
    """What the plan is kept as, which is what `optimize` keeps it as; None if it is not kept."""
    if not are_kept() or acts_on_parameters(step.module):
        return None
    module, inputs = step.module, (step.args, dict(step.kwargs))
    tensors = [*module.parameters(), *module.buffers(), *input_leaves(inputs)]

    def named() -> str | None:
        layout = layout_of(step.args, step.kwargs)
        key = plan_key(module, None, layout, step.loop)
        return identity(
            module, step.forward, key, step.request, holds_data=not holds_no_data(tensors)
        )

    return unless_a_bug(named)


def _kept(step: StepToPlan, name: str, planners: dict[str, StepPlanner]) -> Plan | None:
    """The plan that is kept under a name, if it is for the graph of this step.

    Args:
        step: The step.
        name: What its plan is kept as.
        planners: What is captured to find out.
    """
    kept = load(name)
    if kept is None or not kept.is_searched_enough(step.request):
        return None

    def served(planner: StepPlanner) -> Plan:
        graph = kept.plan.graph
        if graph is None or not any(_are_same(graph, own) for own in planner.graphs):
            raise PlanMismatchError("it is for another graph")
        note = kept.note(is_verified=kept.is_verified)
        return dataclasses.replace(kept.plan, notes=(*kept.plan.notes, note))

    rungs = rungs_of(step, served, known=planners)
    if kept.plan.rung != "eager":
        rungs = only_rung(rungs, kept.plan.rung)
    try:
        return Ladder().descend(rungs)
    except AutockptError as error:
        if not leads_down(error) or progress.is_stopping():
            raise
        return None  # planning anew tells what is wrong


def _are_same(planned: ComputeGraph, graph: ComputeGraph) -> bool:
    """Whether a plan of one graph is what would be planned for another, times aside."""
    same_names = [op.name for op in planned.ops] == [op.name for op in graph.ops]
    return same_names and not first_difference(planned, graph)


def _keep(
    name: str, made: Plan, executable: ExecutablePlan, request: Request, ladder: Ladder
) -> str:
    """Keep a plan, and say where; empty if it is not kept."""
    # What is below a rung that a bug ruled out, or was cut off by Ctrl-C, may be better next time.
    if ladder.met_bug or progress.is_stopping():
        return ""
    kept = KeptPlan(
        plan=made,
        program=None if made.leaves_the_model else executable.program,
        is_verified=False,
        time_limit_s=request.kept_limit_s,
        reason=ladder.reason,
        given_up=ladder.given_up,
    )
    file = unless_a_bug(lambda: keep(name, kept))
    return "" if file is None else f"kept in {file}"
