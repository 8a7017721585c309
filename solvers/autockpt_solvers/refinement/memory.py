"""The bytes of a plan (see `held`): where its storages are live, and what its runs need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.compiling import compiled_within
from autockpt_solvers.refinement.tables import (
    FAR_BELOW,
    FIRST,
    HEAD_CHANGED,
    HEAD_OVER,
    HEAD_PEAK,
    LAST,
    OVER,
    POOL,
    READ,
)
from autockpt_solvers.refinement.undo import LIVE, MOST, RUNS, add, note

if TYPE_CHECKING:
    from autockpt_solvers.refinement.tables import Plan, Scratch, Stages


@compiled_within
def relive(stages: Stages, plan: Plan, work: Scratch, s: int, first: int, last: int) -> None:
    """Finds before which stages a storage is live, where `first` to `last` touch it anew."""
    totals, dirty, live_bytes = plan.totals, work.dirty, plan.live_bytes
    touch, live, size = plan.touch[s], plan.live[s], stages.size_bytes[s]
    top = -1  # where a stretch of stages began, from above, that gained or lost it
    k = last
    while k >= 0:
        now = touch[k] == READ if touch[k] else live[k + 1] == 1
        is_same = now == (live[k] == 1)
        if top >= 0 and (is_same or now != (live[top] == 1)):
            note(plan.notes, totals, LIVE, s, k + 1, top + 1)
            top = -1
        if not is_same:
            top = k if top < 0 else top
            live[k] ^= 1
            live_bytes[k] += size if now else -size
            if k > 0 and touch[k - 1]:
                dirty[k - 1] = 1
            totals[FIRST] = min(totals[FIRST], max(0, k - 1))
            totals[LAST] = max(totals[LAST], k)
        elif k <= first:
            return
        k -= 1
    if top >= 0:
        note(plan.notes, totals, LIVE, s, 0, top + 1)
        carry_over(stages, plan, s)
        totals[HEAD_CHANGED] = 1


@compiled_within
def carry_over(stages: Stages, plan: Plan, s: int) -> None:
    """Counts a storage to the end of the forward pass, or no longer."""
    size = stages.size_bytes[s] if plan.live[s, 0] else -stages.size_bytes[s]
    add(plan.head_live[plan.head_last[s] + 1 :], size)


@compiled_within
def weigh(stages: Stages, plan: Plan, work: Scratch, room: int) -> None:
    """Counts the bytes of all stages anew whose bytes, or those of whose runs, changed."""
    totals = plan.totals
    first, end = totals[FIRST], totals[LAST] + 1
    for k in range(first, end):
        if work.dirty[k]:
            _own_runs(plan, work, k)
            note(plan.notes, totals, MOST, k, plan.most_bytes[k], 0)
            _weigh_runs(stages, plan, work, k)
    start, count, pool_bytes, most = plan.start, plan.num_again, plan.pool_bytes, plan.most_bytes
    live_bytes, all_over, all_peak = plan.live_bytes, plan.over, plan.peak
    work.over[first:end] = all_over[first:end]
    work.peak[first:end] = all_peak[first:end]
    change = 0
    for k in range(first, end):
        live = live_bytes[k]
        peak = live + most[k]
        over = 0
        if peak > room:
            over = stages.gap_runs[k] * max(0, live + stages.gap_bytes[k] - room)
            for j in range(start[k], start[k] + count[k] + 1):
                over += max(0, live + pool_bytes[j] - room)
        change += over - all_over[k]
        all_over[k] = over
        all_peak[k] = peak
    work.dirty[first:end] = 0
    totals[OVER] += change


@compiled_within
def _own_runs(plan: Plan, work: Scratch, k: int) -> None:
    """Copies the runs of a stage, where what is noted must stay as it is."""
    totals = plan.totals
    first, count, start = plan.start[k], plan.num_again[k], totals[POOL]
    if first < work.before[POOL]:
        note(plan.notes, totals, RUNS, k, first, count)
        plan.pool[start : start + count] = plan.pool[first : first + count]
        plan.start[k] = start
        plan.totals[POOL] = start + count + 1


@compiled_within
def _weigh_runs(stages: Stages, plan: Plan, work: Scratch, k: int) -> None:
    """Counts the bytes of each run of a stage, less what is live before it."""
    start, count = plan.start[k], plan.num_again[k]
    for j in range(start, start + count):
        op = plan.pool[j]
        for i in range(stages.reads_at[op], stages.reads_at[op + 1]):
            work.last[stages.reads[i]] = j
        for i in range(stages.writes_at[op], stages.writes_at[op + 1]):
            work.last[stages.writes[i]] = j
    unit = stages.place.size + k
    for i in range(stages.reads_at[unit], stages.reads_at[unit + 1]):
        work.last[stages.reads[i]] = start + count
    live = 0
    for j in range(start, start + count):
        op = plan.pool[j]
        for i in range(stages.writes_at[op], stages.writes_at[op + 1]):
            live += stages.size_bytes[stages.writes[i]]
        plan.pool_bytes[j] = live + stages.before_bytes[k] + stages.working_bytes[op]
        for i in range(stages.reads_at[op], stages.reads_at[op + 1]):
            s = stages.reads[i]
            if work.last[s] == j and not plan.live[s, k + 1]:
                live -= stages.size_bytes[s]
        for i in range(stages.writes_at[op], stages.writes_at[op + 1]):
            s = stages.writes[i]
            if work.last[s] == j and not plan.live[s, k + 1]:
                live -= stages.size_bytes[s]
    plan.pool_bytes[start + count] = live + stages.at_bytes[k]
    most = stages.gap_bytes[k]
    for j in range(start, start + count + 1):
        most = max(most, plan.pool_bytes[j])
    plan.most_bytes[k] = most


@compiled_within
def fill_head(stages: Stages, plan: Plan) -> None:
    """Counts the bytes that are live in the forward pass."""
    live = plan.head_live
    live[:] = 0
    num_places = live.size
    for place in range(num_places):
        op = stages.forward[place]
        plan.head_own[place] = FAR_BELOW
        if plan.in_head[op]:
            plan.head_own[place] = stages.head_bytes[place] + stages.working_bytes[op]
            for k in range(stages.reads_at[op], stages.reads_at[op + 1]):
                plan.head_last[stages.reads[k]] = place
            for k in range(stages.writes_at[op], stages.writes_at[op + 1]):
                plan.head_last[stages.writes[k]] = place
    for s in range(plan.head_last.size):
        op = stages.producer[s]
        if plan.in_head[op]:
            live[stages.place[op]] += stages.size_bytes[s]
            end = num_places if plan.live[s, 0] else plan.head_last[s] + 1
            if end < num_places:
                live[end] -= stages.size_bytes[s]
    for place in range(1, num_places):
        live[place] += live[place - 1]


@compiled_within
def weigh_head(plan: Plan, room: int) -> None:
    """Counts the bytes of the forward pass's runs."""
    over = 0
    peak = 0
    live, own = plan.head_live, plan.head_own
    for place in range(live.size):
        here = live[place] + own[place]
        peak = max(peak, here)
        over += max(0, here - room)
    plan.totals[OVER] += over - plan.totals[HEAD_OVER]
    plan.totals[HEAD_OVER] = over
    plan.totals[HEAD_PEAK] = peak
