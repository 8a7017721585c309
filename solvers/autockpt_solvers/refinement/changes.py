"""What a changed entry of a plan's tables changes (see `held`), followed and taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.compiling import compiled_within
from autockpt_solvers.refinement.memory import carry_over, fill_head, relive, weigh, weigh_head
from autockpt_solvers.refinement.tables import (
    FIRST,
    HEAD_CHANGED,
    IS_WEIGHED,
    LAST,
    LENGTH,
    MADE,
    NOTES,
    POOL,
    READ,
    RECOMPUTE,
)
from autockpt_solvers.refinement.undo import (
    AT_HAND,
    HEAD,
    LIVE,
    MOST,
    RUNS,
    TOUCH,
    add,
    flip,
    note,
)

if TYPE_CHECKING:
    from autockpt_solvers.refinement.tables import Numbers, Plan, Scratch, Stages


@compiled_within
def change(
    stages: Stages,
    plan: Plan,
    work: Scratch,
    kept: tuple[int, int],
    held: tuple[int, int],
    room: int,
    most_ns: float,
) -> bool:
    """Follows what changes with entries of `keep` and `hold` that were changed already.

    Args:
        stages: The graph.
        plan: The plan; gains what follows.
        work: Scratch.
        kept: Storages whose `keep` was changed; -1 for none.
        held: Stages for which `hold` of a storage was changed; the number of stages for none.
        room: Bytes to stay under.
        most_ns: Recompute time that is too much.

    Returns:
        Whether there is such a plan, not too dear and not too long; if not, or if it is not
        wanted, it must be taken back.
    """
    totals, num_stages = plan.totals, plan.num_again.size
    work.before[:] = totals
    totals[NOTES] = 0
    totals[FIRST] = num_stages
    totals[LAST] = -1
    totals[HEAD_CHANGED] = 0
    totals[IS_WEIGHED] = 0
    num_differs = 0
    for s in kept:
        if s >= 0:
            work.differs[num_differs] = s
            num_differs += 1
            if not stages.is_required[stages.producer[s]]:
                totals[HEAD_CHANGED] = 1
    is_head_new = totals[HEAD_CHANGED] == 1
    if is_head_new:
        note(plan.notes, totals, HEAD, 0, 0, 0)
        if not run_head(stages, plan, work):
            return False
    num_changed, is_plan = follow(stages, plan, work, num_differs, held)
    is_plan = is_plan and totals[RECOMPUTE] < most_ns
    for k in range(num_changed):
        s = work.changed[k]
        if is_plan:
            relive(stages, plan, work, s, work.first_change[s], work.last_change[s])
        work.first_change[s] = num_stages
        work.last_change[s] = -1
    if not is_plan:
        for k in range(totals[FIRST], totals[LAST] + 1):
            work.dirty[k] = 0
        return False
    if is_head_new:
        fill_head(stages, plan)
    if totals[HEAD_CHANGED]:
        weigh_head(plan, room)
    weigh(stages, plan, work, room)
    totals[IS_WEIGHED] = 1
    return True


@compiled_within
def follow(
    stages: Stages, plan: Plan, work: Scratch, num_differs: int, held: tuple[int, int]
) -> tuple[int, bool]:
    """Goes from stage to stage for as long as something else is at hand.

    Args:
        stages: The graph.
        plan: The plan.
        work: Scratch; `differs` says what else is at hand at the turn.
        num_differs: Number of its entries.
        held: As in `change`.

    Returns:
        The number of entries of `work.changed`, and whether there is such a plan.
    """
    num_storages, num_stages = plan.touch.shape
    totals = plan.totals
    num_changed = 0
    k = 0
    while True:
        found = _next_stage(plan, work, num_differs, held, k)
        for i in range(num_differs):
            s = work.differs[i]
            flip(plan.at_hand[s, k : found + 1])
            note(plan.notes, totals, AT_HAND, s, k, found + 1)
        if found == num_stages:
            return num_changed, True
        # What follows notes once more as much at most, and two things per stage.
        most_notes = 2 * (totals[NOTES] + 2 * num_storages + 2) + 2 * num_stages
        if most_notes > plan.notes.shape[0]:
            return num_changed, False
        num_touched = run_stage(stages, plan, work, found)
        if num_touched < 0:
            return num_changed, False
        num_differs, num_changed = _compare(
            stages, plan, work, found, num_touched, num_differs, num_changed
        )
        k = found + 1


@compiled_within
def _next_stage(
    plan: Plan, work: Scratch, num_differs: int, held: tuple[int, int], first: int
) -> int:
    """The next stage, from `first`, that a difference concerns; or the number of stages."""
    found = plan.num_again.size
    for stage in held:
        if first <= stage < found:
            found = stage
    for i in range(num_differs):
        row = plan.touch[work.differs[i], first:found]
        for k in range(row.size):
            if row[k]:
                found = first + k
                break
    return found


@compiled_within
def _compare(
    stages: Stages,
    plan: Plan,
    work: Scratch,
    k: int,
    num_touched: int,
    num_differs: int,
    num_changed: int,
) -> tuple[int, int]:
    """Compares what a stage touches and leaves with what it did; the lengths of the two lists."""
    totals = plan.totals
    work.dirty[k] = 1
    totals[FIRST] = min(totals[FIRST], k)
    totals[LAST] = max(totals[LAST], k)
    num_left = 0
    for i in range(num_differs):
        if not work.is_touched[work.differs[i]]:
            work.differs[num_left] = work.differs[i]
            num_left += 1
    for i in range(num_touched):
        s = work.touched[i]
        code = work.code[s]
        work.code[s] = 0
        work.is_touched[s] = 0
        if code != plan.touch[s, k]:
            note(plan.notes, totals, TOUCH, s, k, plan.touch[s, k])
            plan.touch[s, k] = code
            if work.last_change[s] < 0:
                work.changed[num_changed] = s
                num_changed += 1
            work.first_change[s] = min(work.first_change[s], k)
            work.last_change[s] = k
        after = plan.at_hand[s, k]
        if code:
            after = plan.hold[s, k] if stages.is_decided[s] else 1
        if after != plan.at_hand[s, k + 1]:
            work.differs[num_left] = s
            num_left += 1
    return num_left, num_changed


@compiled_within
def run_stage(stages: Stages, plan: Plan, work: Scratch, k: int) -> int:
    """Finds what runs again for a stage, from what is at hand.

    Args:
        stages: The graph.
        plan: The plan.
        work: Scratch; gains what the stage touches, now or before, and how it does now.
        k: The stage.

    Returns:
        The number of storages in `work.touched`; -1 where the plan would not run.
    """
    totals = plan.totals
    unit = stages.place.size + k
    start = totals[POOL]
    count = 0
    top = 0
    fails = start + stages.place.size + 2 > plan.pool.size
    for j in range(stages.reads_at[unit], stages.reads_at[unit + 1]):
        if not plan.at_hand[stages.reads[j], k]:
            work.stack[top] = stages.reads[j]
            top += 1
    while top > 0 and not fails:
        top -= 1
        op = stages.producer[work.stack[top]]
        if plan.at_hand[work.stack[top], k] or work.marked[op]:
            continue
        if stages.region[op] != stages.region[unit] or (
            plan.in_head[op] and not stages.is_rerunnable[op]
        ):
            fails = True
            break
        work.marked[op] = 1
        j = start + count  # insertion keeps them in the order they run
        while j > start and stages.place[plan.pool[j - 1]] > stages.place[op]:
            plan.pool[j] = plan.pool[j - 1]
            j -= 1
        plan.pool[j] = op
        count += 1
        for j in range(stages.reads_at[op], stages.reads_at[op + 1]):
            if not plan.at_hand[stages.reads[j], k]:
                work.stack[top] = stages.reads[j]
                top += 1
    for j in range(start, start + count):
        work.marked[plan.pool[j]] = 0
    length = totals[LENGTH] + count - plan.num_again[k]
    if fails or length > (plan.pool.size - stages.place.size - 8) // 4 - plan.num_again.size:
        return -1
    note(plan.notes, totals, RUNS, k, plan.start[k], plan.num_again[k])
    for j in range(plan.start[k], plan.start[k] + plan.num_again[k]):
        op = plan.pool[j]
        plan.runs[op] -= 1
        totals[RECOMPUTE] -= stages.runtime_ns[op] * (plan.runs[op] > 0)
    for j in range(start, start + count):
        op = plan.pool[j]
        totals[RECOMPUTE] += stages.runtime_ns[op] * (plan.runs[op] > 0)
        plan.runs[op] += 1
    num_touched = _touch(stages, work, plan.pool[start : start + count], unit, 0, True)
    old = plan.pool[plan.start[k] : plan.start[k] + plan.num_again[k]]
    num_touched = _touch(stages, work, old, unit, num_touched, False)
    totals[LENGTH] = length
    totals[POOL] = start + count + 1
    plan.start[k] = start
    plan.num_again[k] = count
    return num_touched


@compiled_within
def _touch(
    stages: Stages, work: Scratch, ops: Numbers, stage: int, num_touched: int, is_new: bool
) -> int:
    """Lists what ops and a stage touch; gives the length of the list."""
    for op in ops:
        reads = stages.reads[stages.reads_at[op] : stages.reads_at[op + 1]]
        writes = stages.writes[stages.writes_at[op] : stages.writes_at[op + 1]]
        num_touched = _list(work, reads, READ if is_new else 0, num_touched)
        num_touched = _list(work, writes, MADE if is_new else 0, num_touched)
    reads = stages.reads[stages.reads_at[stage] : stages.reads_at[stage + 1]]
    return _list(work, reads, READ if is_new else 0, num_touched)


@compiled_within
def _list(work: Scratch, storages: Numbers, code: int, num_touched: int) -> int:
    """Lists storages that are not listed yet, with how they are touched first."""
    for s in storages:
        if not work.is_touched[s]:
            work.is_touched[s] = 1
            work.code[s] = code
            work.touched[num_touched] = s
            num_touched += 1
    return num_touched


@compiled_within
def run_head(stages: Stages, plan: Plan, work: Scratch) -> bool:
    """Finds which ops the forward pass runs; whether the plan may run then.

    An op that may run once only must not have run for a stage so far, even if it would not any
    more: a few plans are refused that would run.
    """
    totals = plan.totals
    top = 0
    for op in range(plan.in_head.size):
        work.marked[op] = stages.is_required[op]
    for s in range(plan.keep.size):
        op = stages.producer[s]
        if plan.keep[s] and not work.marked[op]:
            work.marked[op] = 1
            work.stack[top] = op
            top += 1
    while top > 0:
        top -= 1
        op = work.stack[top]
        for k in range(stages.reads_at[op], stages.reads_at[op + 1]):
            other = stages.producer[stages.reads[k]]
            if not work.marked[other]:
                work.marked[other] = 1
                work.stack[top] = other
                top += 1
    runs = True
    for op in range(plan.in_head.size):
        if work.marked[op] and not plan.in_head[op]:
            totals[RECOMPUTE] += stages.runtime_ns[op] * (plan.runs[op] > 0)
            runs = runs and stages.may_be_early[op]
            runs = runs and (stages.is_rerunnable[op] or plan.runs[op] == 0)
            plan.runs[op] += 1
        elif plan.in_head[op] and not work.marked[op]:
            plan.runs[op] -= 1
            totals[RECOMPUTE] -= stages.runtime_ns[op] * (plan.runs[op] > 0)
        plan.in_head[op] = work.marked[op]
        work.marked[op] = 0
    return runs


@compiled_within
def take_back(stages: Stages, plan: Plan, work: Scratch) -> None:
    """Undoes the last change; the entries of `keep` and `hold` must be as they were already."""
    totals = plan.totals
    is_head_new = False
    for row in range(totals[NOTES] - 1, -1, -1):
        kind, a, b, c = plan.notes[row]
        if kind == AT_HAND:
            flip(plan.at_hand[a, b:c])
        elif kind == TOUCH:
            plan.touch[a, b] = c
        elif kind == LIVE:
            flip(plan.live[a, b:c])
            add(plan.live_bytes[b:c], stages.size_bytes[a] * (2 * int(plan.live[a, b]) - 1))
            if b == 0:
                carry_over(stages, plan, a)
        elif kind == RUNS:
            for k in range(plan.start[a], plan.start[a] + plan.num_again[a]):
                plan.runs[plan.pool[k]] -= 1
            plan.start[a] = b
            plan.num_again[a] = c
            for k in range(b, b + c):
                plan.runs[plan.pool[k]] += 1
        elif kind == MOST:
            plan.most_bytes[a] = b
        else:
            is_head_new = True
    if is_head_new:
        run_head(stages, plan, work)
        fill_head(stages, plan)
    if totals[IS_WEIGHED]:
        first, end = totals[FIRST], totals[LAST] + 1
        plan.over[first:end] = work.over[first:end]
        plan.peak[first:end] = work.peak[first:end]
    totals[:] = work.before
