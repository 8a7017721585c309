"""Why a plan saves or recomputes something, and what the other choice costs.

The other choice is computed: the schedule is changed for the operations in question, everything
else stays as in the plan, and the simulator replays it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from autockpt.report.plan import Plan
from autockpt.report.timeline.replay import forward_end
from autockpt_solvers import (
    Compute,
    ComputeGraph,
    Schedule,
    ScheduleError,
    simulate,
    with_frees,
)

SAVED, RECOMPUTED, DROPPED = "saved", "recomputed", "not needed by the backward"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpChoice:
    """What a plan does with the values of an operation of the forward.

    Attributes:
        op: The operation, an index into the graph's.
        choice: Whether they are saved, recomputed, or freed and not needed again.
        size_bytes: Their bytes.
        num_runs: How often the operation runs.
        runtime_ns: The time of one run.
        can_run_again: Whether it may be recomputed at all.
    """

    op: int
    choice: str
    size_bytes: int
    num_runs: int
    runtime_ns: int
    can_run_again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherChoice:
    """The plan with the other choice for some operations, replayed.

    Attributes:
        choice: What is done with them instead.
        ops: The operations whose choice changes.
        peak_bytes: The peak then, everything counted.
        more_bytes: How much higher that is; negative if it is lower.
        more_ns: How much longer the step takes; negative if it is faster.
    """

    choice: str
    ops: tuple[int, ...]
    peak_bytes: int
    more_bytes: int
    more_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a plan does with some operations, and what the other choices cost.

    Attributes:
        choices: What happens to each operation.
        others: The other choice for those that are recomputed, and for those that are saved.
        at_peak_bytes: Bytes of their values that are in memory at the plan's peak.
    """

    choices: tuple[OpChoice, ...]
    others: tuple[OtherChoice, ...]
    at_peak_bytes: int


def explain(plan: Plan, ops: tuple[int, ...]) -> Explanation:
    """Returns what a plan does with operations of its forward, and what the others choices cost.

    Args:
        plan: The plan.
        ops: The operations.

    Raises:
        ValueError: The plan has no schedule.
    """
    if plan.graph is None or plan.schedule is None:
        raise ValueError("this plan has no schedule to explain: the model runs as it is")
    graph, schedule = plan.graph, plan.schedule
    num_runs = Counter(schedule.compute_order)
    saved = set(simulate(graph, schedule).saved)
    choices = tuple(_choice(graph, at, num_runs[at], saved) for at in ops)
    others = []
    again = {each.op for each in choices if each.choice == RECOMPUTED}
    if again:
        order = _saved_instead(graph, schedule.compute_order, again)
        others.append(_replayed(plan, graph, order, SAVED, again))
    kept = {each.op for each in choices if each.choice == SAVED and each.can_run_again}
    if kept:
        order = _recomputed_instead(graph, schedule, kept)
        others.append(_replayed(plan, graph, order, RECOMPUTED, kept))
    return Explanation(
        choices=choices,
        others=tuple(other for other in others if other is not None),
        at_peak_bytes=_at_peak_bytes(graph, schedule, set(ops)),
    )


def _choice(graph: ComputeGraph, at: int, num_runs: int, saved: set[int]) -> OpChoice:
    op = graph.ops[at]
    choice = DROPPED
    if saved & set(op.writes):
        choice = SAVED
    if num_runs > 1:
        choice = RECOMPUTED
    return OpChoice(
        op=at,
        choice=choice,
        size_bytes=sum(map(graph.size, op.writes)),
        num_runs=num_runs,
        runtime_ns=op.runtime_ns,
        can_run_again=op.recomputable,
    )


def _replayed(
    plan: Plan, graph: ComputeGraph, order: list[int], choice: str, ops: set[int]
) -> OtherChoice | None:
    """The other choice; None if no schedule with it runs."""
    assert plan.schedule is not None
    try:
        then = simulate(graph, with_frees(graph, order))
    except ScheduleError:
        return None
    now = simulate(graph, plan.schedule)
    fixed_bytes = plan.fixed.total_bytes + plan.older_gradients_bytes
    return OtherChoice(
        choice=choice,
        ops=tuple(sorted(ops)),
        peak_bytes=fixed_bytes + then.peak_bytes,
        more_bytes=then.peak_bytes - now.peak_bytes,
        more_ns=then.recompute_ns - now.recompute_ns,
    )


def _saved_instead(graph: ComputeGraph, order: tuple[int, ...], ops: set[int]) -> list[int]:
    """The order in which some operations run once, without the runs that only served theirs."""
    seen: set[int] = set()
    kept = []
    for at in order:
        if at not in ops or at not in seen:
            kept.append(at)
        seen.add(at)
    while True:
        useless = _useless_runs(graph, kept)
        if not useless:
            return kept
        kept = [at for position, at in enumerate(kept) if position not in useless]


def _useless_runs(graph: ComputeGraph, order: list[int]) -> set[int]:
    """Positions of repeated runs whose values nothing reads before they are made again."""
    found: set[int] = set()
    is_read = [False] * len(graph.storages)
    first = {at: position for position, at in reversed(list(enumerate(order)))}
    for position in reversed(range(len(order))):
        op = graph.ops[order[position]]
        is_repeat = position > first[order[position]]
        if is_repeat and not any(is_read[storage] for storage in op.writes):
            found.add(position)
            continue
        for storage in op.writes:
            is_read[storage] = False
        for storage in op.reads:
            is_read[storage] = True
    return found


def _recomputed_instead(graph: ComputeGraph, schedule: Schedule, ops: set[int]) -> list[int]:
    """The order in which some operations run again just before the backward reads their values."""
    end = forward_end(graph, schedule)
    order: list[int] = []
    have: set[int] = set()

    def make(at: int) -> None:
        have.add(at)
        for storage in graph.ops[at].reads:
            maker = graph.producer[storage]
            if maker in ops and maker not in have:
                make(maker)
        order.append(at)

    for position, step in enumerate(schedule.steps):
        if not isinstance(step, Compute):
            continue
        if position > end:
            for storage in graph.ops[step.op].reads:
                maker = graph.producer[storage]
                if maker in ops and maker not in have:
                    make(maker)
        order.append(step.op)
    return order


def _at_peak_bytes(graph: ComputeGraph, schedule: Schedule, ops: set[int]) -> int:
    live: set[int] = set()
    peak = simulate(graph, schedule).peak_step
    for step in schedule.steps[: peak + 1]:
        if isinstance(step, Compute):
            live |= set(graph.ops[step.op].writes)
            live -= set(graph.ops[step.op].overwrites)
        else:
            live.discard(step.storage)
    return sum(graph.size(storage) for storage in live if graph.producer[storage] in ops)
