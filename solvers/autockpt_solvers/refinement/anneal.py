"""The inner loop of refinement: annealing over what a plan keeps in memory (see `tables`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from autockpt_solvers.kernels.annealing import draw, is_taken, temperature_at, weight_at
from autockpt_solvers.kernels.compiling import compiled, compiled_within
from autockpt_solvers.refinement.changes import (
    apply_change,
    run_forward,
    run_reader,
    undo_change,
)
from autockpt_solvers.refinement.memory import (
    count_bytes,
    count_forward,
    fill_forward,
    update_live,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autockpt_solvers.kernels.annealing import Cooling, Steps
    from autockpt_solvers.refinement.tables import GraphTables, Numbers, PlanTables, Scratch

_NEAR = 20  # at most this many readers lie between two entries that are changed at once
_RECOOL = 64  # steps from one change of temperature to the next

# Out of 14 kinds of changes, drawn evenly. Of the first table: a storage and one that it is made
# from (2), or a random one (1), or none (2); the second one changes the other way round. Of the
# second table: one entry (3), one entry with the same storage of the first table (2), or one entry
# and another one nearby, the other way round (4).
_KINDS = 14
_WITH_SOURCE, _WITH_RANDOM, _OF_FIRST_TABLE, _SINGLE, _WITH_FIRST_TABLE = 2, 3, 5, 8, 10


# Out of 3: a chain that a change recomputes is not kept after its reader (1), or all of it (1), or
# what is read again soon (1).
_REACHES, _DISCARD, _KEEP = 3, 1, 2


class Buffers(NamedTuple):
    """Arrays that annealing needs.

    Attributes:
        again: Scratch for the runs, and for their bytes.
        choices: Storages that the tables decide about.
        best: The cheapest order that fits.
        lean: The order with the lowest peak.
    """

    again: Numbers
    choices: Numbers
    best: Numbers
    lean: Numbers


@compiled
def derive(graph: GraphTables, plan: PlanTables, work: Scratch, budget: int) -> bool:
    """Work out everything that follows from the two tables of a plan.

    Args:
        graph: The graph.
        plan: The plan. `kept_at_end`, `kept_after` and the first column of `at_hand` are given.
        work: Scratch.
        budget: Bytes that the graph may use.

    Returns:
        Whether the plan can run.
    """
    num_storages, num_readers = plan.touch.shape
    for numbers in (plan.start, plan.num_again, plan.live_bytes, plan.over, plan.runs):
        numbers[:] = 0
    for flags in (plan.touch, plan.live):
        flags[:] = 0
    plan.in_forward[:] = 0
    _reset(plan.totals[0])
    _reset(work.before[0])
    work.dirty[:] = 1
    totals = plan.totals[0]
    if not run_forward(graph, plan, work):
        return False
    for k in range(num_readers):
        num_touched = run_reader(graph, plan, work, k)
        if num_touched < 0:
            return False
        totals.num_notes = 0
        plan.at_hand[:, k + 1] = plan.at_hand[:, k]
        for i in range(num_touched):
            s = work.touched[i]
            plan.touch[s, k] = work.code[s]
            plan.at_hand[s, k + 1] = plan.kept_after[s, k] if graph.is_decided[s] else 1
            work.code[s] = 0
            work.is_touched[s] = 0
    fill_forward(graph, plan)
    for s in range(num_storages):
        update_live(graph, plan, work, s, 0, num_readers - 1)
        totals.num_notes = 0
    totals.last_dirty = num_readers - 1
    count_forward(plan, budget)
    count_bytes(graph, plan, work, budget)
    plan.peak[num_readers] = graph.gap_bytes[num_readers]
    if plan.peak[num_readers] > budget:
        totals.over_bytes += graph.gap_runs[num_readers] * (plan.peak[num_readers] - budget)
    return True


@compiled_within
def _reset(totals: Any) -> None:
    totals.over_bytes = 0
    totals.recompute_ns = 0
    totals.forward_over_bytes = 0
    totals.forward_peak_bytes = 0
    totals.num_again = 0
    totals.again_end = 0
    totals.num_notes = 0
    totals.first_dirty = 0
    totals.last_dirty = 0
    totals.is_forward_changed = 0
    totals.is_counted = 0


@compiled
def write_order(graph: GraphTables, plan: PlanTables, order: Numbers) -> int:
    """Write the compute order of a plan; returns its length."""
    length = 0
    for place in range(graph.forward_ops.size):
        if plan.in_forward[graph.forward_ops[place]]:
            order[length] = graph.forward_ops[place]
            length += 1
    op = graph.forward_ops.size
    for k in range(graph.row.size):
        while op < graph.forward_ops.size + graph.row[k]:
            order[length] = op
            length += 1
            op += 1
        for j in range(plan.start[k], plan.start[k] + plan.num_again[k]):
            order[length] = plan.again[j]
            length += 1
    end = graph.forward_ops.size + graph.row.size + graph.gap_runs.sum()
    while op < end:
        order[length] = op
        length += 1
        op += 1
    return length


@compiled_within
def _tidy(plan: PlanTables, buffer: Numbers) -> None:
    """Move all runs to the front, without the holes that undone changes leave."""
    top = 0
    for k in range(plan.num_again.size):
        for j in range(plan.start[k], plan.start[k] + plan.num_again[k] + 1):
            buffer[top, 0] = plan.again[j]
            buffer[top, 1] = plan.again_bytes[j]
            top += 1
        plan.start[k] = top - plan.num_again[k] - 1
    plan.again[:top] = buffer[:top, 0]
    plan.again_bytes[:top] = buffer[:top, 1]
    plan.totals[0].again_end = top


@compiled_within
def _kept_pair(
    graph: GraphTables,
    plan: PlanTables,
    choices: Numbers,
    random: np.random.Generator,
    kind: int,
) -> tuple[int, int]:
    """A storage to change in the first table, and one to change the other way; -1 for none."""
    one = choices[draw(random, choices.size)]
    other = -1
    if kind < _WITH_SOURCE:
        op = graph.producer[one]
        count = graph.reads_at[op + 1] - graph.reads_at[op]
        if count:
            other = graph.reads[graph.reads_at[op] + draw(random, count)]
    elif kind < _WITH_RANDOM:
        other = choices[draw(random, choices.size)]
    if other >= 0 and (
        not graph.is_decided[other] or plan.kept_at_end[other] == plan.kept_at_end[one]
    ):
        other = -1
    return one, other


@compiled_within
def _touched_at(graph: GraphTables, plan: PlanTables, random: np.random.Generator, k: int) -> int:
    """A random storage that a run of a reader touches; -1 if the tables do not decide about it."""
    run = draw(random, plan.num_again[k] + 1)
    unit, num_writes = graph.forward_ops.size + k, 0
    if run < plan.num_again[k]:
        unit = plan.again[plan.start[k] + run]
        num_writes = graph.writes_at[unit + 1] - graph.writes_at[unit]
    num_reads = graph.reads_at[unit + 1] - graph.reads_at[unit]
    if num_reads + num_writes == 0:
        return -1
    which = draw(random, num_reads + num_writes)
    if which < num_reads:
        s = graph.reads[graph.reads_at[unit] + which]
    else:
        s = graph.writes[graph.writes_at[unit] + which - num_reads]
    return s if graph.is_decided[s] else -1


@compiled_within
def _drawn_reach(num_readers: int, random: np.random.Generator) -> int:
    """How long what a change recomputes anew is kept, as in `apply_change`."""
    kind = draw(random, _REACHES)
    if kind < _DISCARD:
        return 0
    return num_readers if kind < _KEEP else int(num_readers * random.random() ** 3)


@compiled_within
def _record(graph: GraphTables, plan: PlanTables, buffers: Buffers, found: Any) -> None:
    """Write the plan's order down if it is the cheapest that fits, or the leanest."""
    totals = plan.totals[0]
    if totals.over_bytes == 0 and (found.best_ns < 0 or totals.recompute_ns < found.best_ns):
        found.best_ns = totals.recompute_ns
        found.best_length = write_order(graph, plan, buffers.best)
    peak = max(totals.forward_peak_bytes, plan.peak.max())
    if peak < found.lean_peak_bytes:
        found.lean_peak_bytes = peak
        found.lean_length = write_order(graph, plan, buffers.lean)


@compiled_within
def _switch(
    plan: PlanTables, kept: tuple[int, int], after: tuple[int, int], readers: tuple[int, int]
) -> None:
    """Turn entries of the two tables into their opposites; once more, and they are as before."""
    for s in kept:
        if s >= 0:
            plan.kept_at_end[s] ^= 1
    for i in range(2):
        if after[i] >= 0:
            plan.kept_after[after[i], readers[i]] ^= 1


@compiled
def anneal_tables(
    graph: GraphTables,
    plan: PlanTables,
    work: Scratch,
    buffers: Buffers,
    random: np.random.Generator,
    found: NDArray[Any],
    budget: int,
    steps: Steps,
    cooling: Cooling,
    chains: float,
) -> None:
    """Go from a plan through changed plans, taking worse ones ever more rarely.

    Args:
        graph: The graph.
        plan: The plan, derived; changed in place.
        work: Scratch.
        buffers: Further arrays; gain the cheapest and the leanest order.
        random: Random numbers.
        found: One record of `FOUND`.
        budget: Bytes that the graph may use.
        steps: The steps to take.
        cooling: How the run cools.
        chains: Share of the changes that also decide how long the chains that they recompute are
            kept.
    """
    num_readers, totals = plan.num_again.size, plan.totals[0]
    temperature = cooling.first_temperature
    weight = cooling.first_weight
    _record(graph, plan, buffers, found[0])
    for step in range(steps.first, steps.stop):
        if step % _RECOOL == 0 or step == steps.first:
            temperature = temperature_at(cooling, step / steps.total)
            weight = weight_at(cooling, step / steps.total)
        # At every step, because the other half can hold one change, and no more.
        if totals.again_end > plan.again.size // 2:
            _tidy(plan, buffers.again)
        kind = draw(random, _KINDS)
        kept, after, readers = (-1, -1), (-1, -1), (num_readers, num_readers)
        if kind < _OF_FIRST_TABLE:
            kept = _kept_pair(graph, plan, buffers.choices, random, kind)
        else:
            k = draw(random, num_readers)
            s = _touched_at(graph, plan, random, k)
            if s < 0:
                continue
            after, readers = (s, -1), (k, num_readers)
            if kind >= _WITH_FIRST_TABLE:
                near = min(num_readers - 1, max(0, k + draw(random, 2 * _NEAR + 1) - _NEAR))
                other = _touched_at(graph, plan, random, near)
                if other < 0 or plan.kept_after[other, near] == plan.kept_after[s, k]:
                    continue
                after, readers = (s, other), (k, near)
            elif kind >= _SINGLE:
                kept = (s, -1)
        over, recompute = totals.over_bytes, totals.recompute_ns
        _switch(plan, kept, after, readers)
        # A plan that costs more than this is never taken, however many bytes it saves.
        bearable = 20 * temperature + weight * over / cooling.unit_bytes
        most_ns = recompute + cooling.unit_ns * bearable + 1
        reach = -1
        if chains > 0 and random.random() < chains:
            reach = _drawn_reach(num_readers, random)
        taken = apply_change(graph, plan, work, kept, readers, budget, most_ns, reach)
        if taken:
            worse = (totals.recompute_ns - recompute) / cooling.unit_ns
            worse += weight * (totals.over_bytes - over) / cooling.unit_bytes
            taken = is_taken(worse, temperature, random)
        if taken:
            _record(graph, plan, buffers, found[0])
        else:
            _switch(plan, kept, after, readers)
            undo_change(graph, plan, work)
