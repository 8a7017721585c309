"""The inner loop of `local` on graphs of one region without a backward pass.

It anneals as `anneal_orders` does, over orders in slots (see `slots`), and moves runs only to where
the reads allow them. On wide graphs a step takes some ten times less work than evaluating the whole
order, so it takes far more steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autockpt_solvers.kernels.annealing import draw, is_taken, temperature_at, weight_at
from autockpt_solvers.kernels.compiling import compiled
from autockpt_solvers.methods.local.anneal_orders import ADD_BELOW, DROP_BELOW, KINDS
from autockpt_solvers.methods.local.slots import (
    EMPTY,
    MOST_RUNS,
    count_change,
    move_run,
    peak_of,
    place_run,
    read_slots,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autockpt_solvers.kernels.annealing import Cooling, Steps
    from autockpt_solvers.methods.local.slots import Intervals, SlotGraph, Slots
    from autockpt_solvers.orders.tally import Numbers

_RECOOL = 64  # steps from one change of temperature to the next


@compiled
def vacate(slot: int, graph: SlotGraph, slots: Slots, old: Intervals, new: Intervals) -> int:
    """Make a slot right before the run at `slot` empty, keeping the order; -1 if it cannot."""
    ops = slots.ops
    if ops[slot] == EMPTY:
        return slot
    step = 1
    free = slot - 1
    while free >= 0 and ops[free] != EMPTY:
        free -= 1
    if free < 0:
        step = -1
        free = slot + 1
        while free < ops.size and ops[free] != EMPTY:
            free += 1
    if free == ops.size:
        return -1
    while free != (slot - 1 if step > 0 else slot):
        move_run(ops[free + step], free + step, free, graph, slots, old, new)
        free += step
    return free


@compiled
def _propose(
    graph: SlotGraph,
    slots: Slots,
    old: Intervals,
    new: Intervals,
    random: np.random.Generator,
    num_distinct: int,
) -> tuple[int, int, int]:
    """A random change: an op, the slot it leaves and the one it takes; -1 for none."""
    ops, where, count, totals = slots.ops, slots.where, slots.num_runs, slots.totals[0]
    slot = draw(random, ops.size)
    kind = draw(random, KINDS)
    if ADD_BELOW <= kind < DROP_BELOW:
        if totals.num_runs == num_distinct:
            return 0, -1, -1
        while ops[slot] == EMPTY or count[ops[slot]] < 2:
            slot = slot + 1 if slot + 1 < ops.size else 0
        return ops[slot], slot, -1
    while ops[slot] == EMPTY:
        slot = draw(random, ops.size)
    op = ops[slot]
    if kind < ADD_BELOW:
        num = graph.reads_at[op + 1] - graph.reads_at[op]
        if num == 0 or 2 * (totals.num_runs + 1) > ops.size:
            return 0, -1, -1
        made = graph.producer[graph.reads[graph.reads_at[op] + draw(random, num)]]
        if not graph.is_rerunnable[made] or count[made] == MOST_RUNS:
            return 0, -1, -1
        return made, -1, vacate(slot, graph, slots, old, new)
    index = 0
    while where[op * MOST_RUNS + index] != slot:
        index += 1
    first, last = _allowed(op, index, graph, slots)
    if last <= first:
        return 0, -1, -1
    reach = 1 + draw(random, 1 + draw(random, ops.size))
    target = slot + reach if draw(random, 2) else slot - reach
    if target < first or target > last:
        target = first + draw(random, last - first + 1)
    target = vacate(target, graph, slots, old, new)
    if target < 0:
        return 0, -1, -1
    # Vacating a slot may have moved the run itself by one.
    return op, where[op * MOST_RUNS + index], target


@compiled
def _allowed(op: int, index: int, graph: SlotGraph, slots: Slots) -> tuple[int, int]:
    """First and last slot to which the reads allow a run of an op to move."""
    where, count = slots.where, slots.num_runs
    first = 0
    last = slots.ops.size - 1
    for k in range(graph.reads_at[op], graph.reads_at[op + 1]):
        first = max(first, where[graph.producer[graph.reads[k]] * MOST_RUNS] + 1)
    if index == 0:
        for k in range(graph.writes_at[op], graph.writes_at[op + 1]):
            storage = graph.writes[k]
            for i in range(graph.readers_at[storage], graph.readers_at[storage + 1]):
                if count[graph.readers[i]] > 0:
                    last = min(last, where[graph.readers[i] * MOST_RUNS] - 1)
    return first, last


@compiled
def anneal_slots(
    graph: SlotGraph,
    slots: Slots,
    old: Intervals,
    new: Intervals,
    random: np.random.Generator,
    best: Numbers,
    lean: Numbers,
    found: NDArray[Any],
    steps: Steps,
    cooling: Cooling,
) -> None:
    """Anneal as `anneal_orders` does; see there for the arguments.

    The leanest order is looked for among those with the fewest bytes over the budget.
    """
    totals, record = slots.totals[0], found[0]
    num_distinct = 0
    base = 0
    for op in range(slots.num_runs.size):
        num_distinct += slots.num_runs[op] > 0
        base += graph.runtime_ns[op] * (slots.num_runs[op] > 0)
    temperature = cooling.first_temperature
    weight = cooling.first_weight
    for step in range(steps.first, steps.stop):
        if step % _RECOOL == 0 or step == steps.first:
            temperature = temperature_at(cooling, step / steps.total)
            weight = weight_at(cooling, step / steps.total)
        op, source, target = _propose(graph, slots, old, new, random, num_distinct)
        if source < 0 and target < 0:
            continue
        over, cost = totals.over_bytes, totals.runtime_ns
        if not move_run(op, source, target, graph, slots, old, new):
            continue
        worse = (totals.runtime_ns - cost) / cooling.unit_ns
        worse += weight * (totals.over_bytes - over) / cooling.unit_bytes
        if not is_taken(worse, temperature, random):
            place_run(op, target, source, slots)
            count_change(op, target, source, graph, slots, new, old)
            continue
        recompute = totals.runtime_ns - base
        if totals.over_bytes == 0 and (record.best_ns < 0 or recompute < record.best_ns):
            record.best_ns = recompute
            record.best_length = read_slots(best, slots)
            if recompute == 0:
                break
        if totals.over_bytes < record.least_over_bytes:
            record.least_over_bytes = totals.over_bytes
            peak = peak_of(graph, slots)
            if peak < record.lean_peak_bytes:
                record.lean_peak_bytes = peak
                record.lean_length = read_slots(lean, slots)
