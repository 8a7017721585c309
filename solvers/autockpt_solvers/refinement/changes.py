"""What follows from a changed entry of a plan's tables (see `tables`), and undoing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.kernels.compiling import compiled_within
from autockpt_solvers.refinement.memory import (
    carry_over,
    count_bytes,
    count_forward,
    fill_forward,
    update_live,
)
from autockpt_solvers.refinement.tables import MADE, READ
from autockpt_solvers.refinement.undo import (
    AT_HAND,
    FORWARD,
    KEPT,
    LIVE,
    MOST,
    RUNS,
    TOUCH,
    add,
    flip,
    note,
)

if TYPE_CHECKING:
    from autockpt_solvers.refinement.tables import GraphTables, Numbers, PlanTables, Scratch


@compiled_within
def apply_change(
    graph: GraphTables,
    plan: PlanTables,
    work: Scratch,
    kept: tuple[int, int],
    readers: tuple[int, int],
    budget: int,
    most_ns: float,
    reach: int,
) -> bool:
    """Follow what changes with entries of the two tables that were changed already.

    Args:
        graph: The graph.
        plan: The plan; gains what follows.
        work: Scratch.
        kept: Storages whose `kept_at_end` was changed; -1 for none.
        readers: Readers for which `kept_after` of a storage was changed; their number for none.
        budget: Bytes that the graph may use.
        most_ns: Recompute time that is too much.
        reach: What a reader touches that it did not touch before is kept after it if one of the
            next so many readers reads it. Below 0, the table stays as it is.

    Returns:
        Whether the plan can run and is neither too dear nor too long. If not, or if it is not
        wanted, it must be undone.
    """
    totals, num_readers = plan.totals[0], plan.num_again.size
    work.before[0] = plan.totals[0]
    totals.num_notes = 0
    totals.first_dirty = num_readers
    totals.last_dirty = -1
    totals.is_forward_changed = 0
    totals.is_counted = 0
    num_differs = 0
    for s in kept:
        if s >= 0:
            work.differs[num_differs] = s
            num_differs += 1
            if not graph.is_required[graph.producer[s]]:
                totals.is_forward_changed = 1
    is_forward_new = totals.is_forward_changed == 1
    if is_forward_new:
        note(plan.notes, totals, FORWARD, 0, 0, 0)
        if not run_forward(graph, plan, work):
            return False
    num_changed, is_plan = follow(graph, plan, work, num_differs, readers, reach)
    is_plan = is_plan and totals.recompute_ns < most_ns
    for k in range(num_changed):
        s = work.changed[k]
        if is_plan:
            update_live(graph, plan, work, s, work.first_change[s], work.last_change[s])
        work.first_change[s] = num_readers
        work.last_change[s] = -1
    if not is_plan:
        for k in range(totals.first_dirty, totals.last_dirty + 1):
            work.dirty[k] = 0
        return False
    if is_forward_new:
        fill_forward(graph, plan)
    if totals.is_forward_changed:
        count_forward(plan, budget)
    count_bytes(graph, plan, work, budget)
    totals.is_counted = 1
    return True


@compiled_within
def follow(
    graph: GraphTables,
    plan: PlanTables,
    work: Scratch,
    num_differs: int,
    readers: tuple[int, int],
    reach: int,
) -> tuple[int, bool]:
    """Go from reader to reader as long as something else is in memory.

    Args:
        graph: The graph.
        plan: The plan.
        work: Scratch; `differs` has what else is in memory at the end of the forward pass.
        num_differs: Number of its entries.
        readers: As in `apply_change`.
        reach: As in `apply_change`.

    Returns:
        The number of entries of `work.changed`, and whether the plan can run.
    """
    num_storages, num_readers = plan.touch.shape
    totals = plan.totals[0]
    num_changed = 0
    k = 0
    while True:
        found = _next_reader(plan, work, num_differs, readers, k)
        for i in range(num_differs):
            s = work.differs[i]
            flip(plan.at_hand[s, k : found + 1])
            note(plan.notes, totals, AT_HAND, s, k, found + 1)
        if found == num_readers:
            return num_changed, True
        # What follows notes as much once more at most, and two things per reader.
        most_notes = 2 * (totals.num_notes + 3 * num_storages + 2) + 2 * num_readers
        if most_notes > plan.notes.shape[0]:
            return num_changed, False
        num_touched = run_reader(graph, plan, work, found)
        if num_touched < 0:
            return num_changed, False
        num_differs, num_changed = _compare(
            graph, plan, work, found, num_touched, num_differs, num_changed, reach
        )
        k = found + 1


@compiled_within
def _next_reader(
    plan: PlanTables, work: Scratch, num_differs: int, readers: tuple[int, int], first: int
) -> int:
    """The next reader, from `first`, that a difference concerns; or the number of readers."""
    found = plan.num_again.size
    for reader in readers:
        if first <= reader < found:
            found = reader
    for i in range(num_differs):
        row = plan.touch[work.differs[i], first:found]
        for k in range(row.size):
            if row[k]:
                found = first + k
                break
    return found


@compiled_within
def _compare(
    graph: GraphTables,
    plan: PlanTables,
    work: Scratch,
    k: int,
    num_touched: int,
    num_differs: int,
    num_changed: int,
    reach: int,
) -> tuple[int, int]:
    """Compare what a reader touches and leaves with before; the lengths of the two lists."""
    totals = plan.totals[0]
    work.dirty[k] = 1
    totals.first_dirty = min(totals.first_dirty, k)
    totals.last_dirty = max(totals.last_dirty, k)
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
            if reach >= 0 and not plan.touch[s, k]:
                kept = _is_read_within(graph, s, k, reach)
                if kept != plan.kept_after[s, k]:
                    note(plan.notes, totals, KEPT, s, k, 0)
                    plan.kept_after[s, k] ^= 1
            note(plan.notes, totals, TOUCH, s, k, plan.touch[s, k])
            plan.touch[s, k] = code
            if work.last_change[s] < 0:
                work.changed[num_changed] = s
                num_changed += 1
            work.first_change[s] = min(work.first_change[s], k)
            work.last_change[s] = k
        after = plan.at_hand[s, k]
        if code:
            after = plan.kept_after[s, k] if graph.is_decided[s] else 1
        if after != plan.at_hand[s, k + 1]:
            work.differs[num_left] = s
            num_left += 1
    return num_left, num_changed


@compiled_within
def _is_read_within(graph: GraphTables, s: int, k: int, reach: int) -> bool:
    """Whether one of the `reach` readers after reader `k` reads a storage."""
    for i in range(graph.readers_at[s], graph.readers_at[s + 1]):
        if graph.readers[i] > k:
            return bool(graph.readers[i] <= k + reach)
    return False


@compiled_within
def run_reader(graph: GraphTables, plan: PlanTables, work: Scratch, k: int) -> int:
    """Find what runs again for a reader, from what is in memory.

    Args:
        graph: The graph.
        plan: The plan.
        work: Scratch; gains what its runs touch, now or before, and how they do now.
        k: The reader.

    Returns:
        The number of storages in `work.touched`; -1 if the plan cannot run.
    """
    totals = plan.totals[0]
    unit = graph.place.size + k
    start = totals.again_end
    count = 0
    top = 0
    fails = start + graph.place.size + 2 > plan.again.size
    for j in range(graph.reads_at[unit], graph.reads_at[unit + 1]):
        if not plan.at_hand[graph.reads[j], k]:
            work.stack[top] = graph.reads[j]
            top += 1
    while top > 0 and not fails:
        top -= 1
        op = graph.producer[work.stack[top]]
        if plan.at_hand[work.stack[top], k] or work.marked[op]:
            continue
        if graph.region[op] != graph.region[unit] or (
            plan.in_forward[op] and not graph.is_rerunnable[op]
        ):
            fails = True
            break
        work.marked[op] = 1
        j = start + count  # insertion keeps the order in which they run
        while j > start and graph.place[plan.again[j - 1]] > graph.place[op]:
            plan.again[j] = plan.again[j - 1]
            j -= 1
        plan.again[j] = op
        count += 1
        for j in range(graph.reads_at[op], graph.reads_at[op + 1]):
            if not plan.at_hand[graph.reads[j], k]:
                work.stack[top] = graph.reads[j]
                top += 1
    for j in range(start, start + count):
        work.marked[plan.again[j]] = 0
    length = totals.num_again + count - plan.num_again[k]
    if fails or length > (plan.again.size - graph.place.size - 8) // 4 - plan.num_again.size:
        return -1
    note(plan.notes, totals, RUNS, k, plan.start[k], plan.num_again[k])
    for j in range(plan.start[k], plan.start[k] + plan.num_again[k]):
        op = plan.again[j]
        plan.runs[op] -= 1
        totals.recompute_ns -= graph.runtime_ns[op] * (plan.runs[op] > 0)
    for j in range(start, start + count):
        op = plan.again[j]
        totals.recompute_ns += graph.runtime_ns[op] * (plan.runs[op] > 0)
        plan.runs[op] += 1
    num_touched = _touch(graph, work, plan.again[start : start + count], unit, 0, True)
    old = plan.again[plan.start[k] : plan.start[k] + plan.num_again[k]]
    num_touched = _touch(graph, work, old, unit, num_touched, False)
    totals.num_again = length
    totals.again_end = start + count + 1
    plan.start[k] = start
    plan.num_again[k] = count
    return num_touched


@compiled_within
def _touch(
    graph: GraphTables, work: Scratch, ops: Numbers, reader: int, num_touched: int, is_new: bool
) -> int:
    """List what ops and a reader touch; returns the length of the list."""
    for op in ops:
        reads = graph.reads[graph.reads_at[op] : graph.reads_at[op + 1]]
        writes = graph.writes[graph.writes_at[op] : graph.writes_at[op + 1]]
        num_touched = _list(work, reads, READ if is_new else 0, num_touched)
        num_touched = _list(work, writes, MADE if is_new else 0, num_touched)
    reads = graph.reads[graph.reads_at[reader] : graph.reads_at[reader + 1]]
    return _list(work, reads, READ if is_new else 0, num_touched)


@compiled_within
def _list(work: Scratch, storages: Numbers, code: int, num_touched: int) -> int:
    """List storages that are not listed yet, with how they are touched first."""
    for s in storages:
        if not work.is_touched[s]:
            work.is_touched[s] = 1
            work.code[s] = code
            work.touched[num_touched] = s
            num_touched += 1
    return num_touched


@compiled_within
def run_forward(graph: GraphTables, plan: PlanTables, work: Scratch) -> bool:
    """Find which ops the forward pass runs; returns whether the plan can run then.

    An op that may run only once must not have run for a reader before the change, even if it no
    longer would after it. So a few plans are refused that could run.
    """
    totals = plan.totals[0]
    top = 0
    for op in range(plan.in_forward.size):
        work.marked[op] = graph.is_required[op]
    for s in range(plan.kept_at_end.size):
        op = graph.producer[s]
        if plan.kept_at_end[s] and not work.marked[op]:
            work.marked[op] = 1
            work.stack[top] = op
            top += 1
    while top > 0:
        top -= 1
        op = work.stack[top]
        for k in range(graph.reads_at[op], graph.reads_at[op + 1]):
            other = graph.producer[graph.reads[k]]
            if not work.marked[other]:
                work.marked[other] = 1
                work.stack[top] = other
                top += 1
    runs = True
    for op in range(plan.in_forward.size):
        if work.marked[op] and not plan.in_forward[op]:
            totals.recompute_ns += graph.runtime_ns[op] * (plan.runs[op] > 0)
            runs = runs and graph.may_be_early[op]
            runs = runs and (graph.is_rerunnable[op] or plan.runs[op] == 0)
            plan.runs[op] += 1
        elif plan.in_forward[op] and not work.marked[op]:
            plan.runs[op] -= 1
            totals.recompute_ns -= graph.runtime_ns[op] * (plan.runs[op] > 0)
        plan.in_forward[op] = work.marked[op]
        work.marked[op] = 0
    return runs


@compiled_within
def undo_change(graph: GraphTables, plan: PlanTables, work: Scratch) -> None:
    """Undo the last change; the entries of the two tables must be as before already."""
    totals = plan.totals[0]
    is_forward_new = False
    for row in range(totals.num_notes - 1, -1, -1):
        kind, a, b, c = plan.notes[row]
        if kind == AT_HAND:
            flip(plan.at_hand[a, b:c])
        elif kind == TOUCH:
            plan.touch[a, b] = c
        elif kind == LIVE:
            flip(plan.live[a, b:c])
            add(plan.live_bytes[b:c], graph.size_bytes[a] * (2 * int(plan.live[a, b]) - 1))
            if b == 0:
                carry_over(graph, plan, a)
        elif kind == RUNS:
            for k in range(plan.start[a], plan.start[a] + plan.num_again[a]):
                plan.runs[plan.again[k]] -= 1
            plan.start[a] = b
            plan.num_again[a] = c
            for k in range(b, b + c):
                plan.runs[plan.again[k]] += 1
        elif kind == MOST:
            plan.most_bytes[a] = b
        elif kind == KEPT:
            plan.kept_after[a, b] ^= 1
        else:
            is_forward_new = True
    if is_forward_new:
        run_forward(graph, plan, work)
        fill_forward(graph, plan)
    if totals.is_counted:
        first, end = totals.first_dirty, totals.last_dirty + 1
        plan.over[first:end] = work.over[first:end]
        plan.peak[first:end] = work.peak[first:end]
    plan.totals[0] = work.before[0]
