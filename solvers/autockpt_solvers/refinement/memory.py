"""The bytes of a plan (see `tables`): where its storages are live, and what its runs need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.kernels.compiling import compiled_within
from autockpt_solvers.refinement.tables import FAR_BELOW, READ
from autockpt_solvers.refinement.undo import LIVE, MOST, RUNS, add, note

if TYPE_CHECKING:
    from autockpt_solvers.refinement.tables import GraphTables, PlanTables, Scratch


@compiled_within
def update_live(
    graph: GraphTables, plan: PlanTables, work: Scratch, s: int, first: int, last: int
) -> None:
    """Find before which readers a storage is live; `first` to `last` touch it in another way."""
    totals, dirty, live_bytes = plan.totals[0], work.dirty, plan.live_bytes
    touch, live, size = plan.touch[s], plan.live[s], graph.size_bytes[s]
    top = -1  # where a row of readers begins, from above, that gained or lost it
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
            totals.first_dirty = min(totals.first_dirty, max(0, k - 1))
            totals.last_dirty = max(totals.last_dirty, k)
        elif k <= first:
            return
        k -= 1
    if top >= 0:
        note(plan.notes, totals, LIVE, s, 0, top + 1)
        carry_over(graph, plan, s)
        totals.is_forward_changed = 1


@compiled_within
def carry_over(graph: GraphTables, plan: PlanTables, s: int) -> None:
    """Count a storage until the end of the forward pass, or no longer."""
    size = graph.size_bytes[s] if plan.live[s, 0] else -graph.size_bytes[s]
    add(plan.forward_live[plan.forward_last[s] + 1 :], size)


@compiled_within
def count_bytes(graph: GraphTables, plan: PlanTables, work: Scratch, budget: int) -> None:
    """Count the bytes of all readers anew whose bytes, or those of whose runs, changed."""
    totals = plan.totals[0]
    first, end = totals.first_dirty, totals.last_dirty + 1
    for k in range(first, end):
        if work.dirty[k]:
            _own_runs(plan, work, k)
            note(plan.notes, totals, MOST, k, plan.most_bytes[k], 0)
            _count_runs(graph, plan, work, k)
    start, count, again_bytes, most = plan.start, plan.num_again, plan.again_bytes, plan.most_bytes
    live_bytes, all_over, all_peak = plan.live_bytes, plan.over, plan.peak
    work.over[first:end] = all_over[first:end]
    work.peak[first:end] = all_peak[first:end]
    change = 0
    for k in range(first, end):
        live = live_bytes[k]
        peak = live + most[k]
        over = 0
        if peak > budget:
            over = graph.gap_runs[k] * max(0, live + graph.gap_bytes[k] - budget)
            for j in range(start[k], start[k] + count[k] + 1):
                over += max(0, live + again_bytes[j] - budget)
        change += over - all_over[k]
        all_over[k] = over
        all_peak[k] = peak
    work.dirty[first:end] = 0
    totals.over_bytes += change


@compiled_within
def _own_runs(plan: PlanTables, work: Scratch, k: int) -> None:
    """Copy the runs of a reader if a note needs them as they are."""
    totals = plan.totals[0]
    first, count, start = plan.start[k], plan.num_again[k], totals.again_end
    if first < work.before[0].again_end:
        note(plan.notes, totals, RUNS, k, first, count)
        plan.again[start : start + count] = plan.again[first : first + count]
        plan.start[k] = start
        totals.again_end = start + count + 1


@compiled_within
def _count_runs(graph: GraphTables, plan: PlanTables, work: Scratch, k: int) -> None:
    """Count the bytes of each run of a reader, without what is live before it."""
    start, count = plan.start[k], plan.num_again[k]
    for j in range(start, start + count):
        op = plan.again[j]
        for i in range(graph.reads_at[op], graph.reads_at[op + 1]):
            work.last[graph.reads[i]] = j
        for i in range(graph.writes_at[op], graph.writes_at[op + 1]):
            work.last[graph.writes[i]] = j
    unit = graph.place.size + k
    for i in range(graph.reads_at[unit], graph.reads_at[unit + 1]):
        work.last[graph.reads[i]] = start + count
    live = 0
    for j in range(start, start + count):
        op = plan.again[j]
        for i in range(graph.writes_at[op], graph.writes_at[op + 1]):
            live += graph.size_bytes[graph.writes[i]]
        plan.again_bytes[j] = live + graph.before_bytes[k] + graph.working_bytes[op]
        for i in range(graph.reads_at[op], graph.reads_at[op + 1]):
            s = graph.reads[i]
            if work.last[s] == j and not plan.live[s, k + 1]:
                live -= graph.size_bytes[s]
        for i in range(graph.writes_at[op], graph.writes_at[op + 1]):
            s = graph.writes[i]
            if work.last[s] == j and not plan.live[s, k + 1]:
                live -= graph.size_bytes[s]
    plan.again_bytes[start + count] = live + graph.at_bytes[k]
    most = graph.gap_bytes[k]
    for j in range(start, start + count + 1):
        most = max(most, plan.again_bytes[j])
    plan.most_bytes[k] = most


@compiled_within
def fill_forward(graph: GraphTables, plan: PlanTables) -> None:
    """Count the bytes that are live at every place of the forward pass."""
    live = plan.forward_live
    live[:] = 0
    num_places = live.size
    for place in range(num_places):
        op = graph.forward_ops[place]
        plan.forward_own[place] = FAR_BELOW
        if plan.in_forward[op]:
            plan.forward_own[place] = graph.forward_output_bytes[place] + graph.working_bytes[op]
            for k in range(graph.reads_at[op], graph.reads_at[op + 1]):
                plan.forward_last[graph.reads[k]] = place
            for k in range(graph.writes_at[op], graph.writes_at[op + 1]):
                plan.forward_last[graph.writes[k]] = place
    for s in range(plan.forward_last.size):
        op = graph.producer[s]
        if plan.in_forward[op]:
            live[graph.place[op]] += graph.size_bytes[s]
            end = num_places if plan.live[s, 0] else plan.forward_last[s] + 1
            if end < num_places:
                live[end] -= graph.size_bytes[s]
    for place in range(1, num_places):
        live[place] += live[place - 1]


@compiled_within
def count_forward(plan: PlanTables, budget: int) -> None:
    """Count the bytes of the runs of the forward pass."""
    over = 0
    peak = 0
    live, own = plan.forward_live, plan.forward_own
    for place in range(live.size):
        here = live[place] + own[place]
        peak = max(peak, here)
        over += max(0, here - budget)
    totals = plan.totals[0]
    totals.over_bytes += over - totals.forward_over_bytes
    totals.forward_over_bytes = over
    totals.forward_peak_bytes = peak
