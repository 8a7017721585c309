"""The inner loop of `ilp`'s refinement: annealing over what is held (see `held`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autockpt_solvers.compiling import compiled, compiled_within, draw
from autockpt_solvers.refinement.changes import change, run_head, run_stage, take_back
from autockpt_solvers.refinement.memory import fill_head, relive, weigh, weigh_head
from autockpt_solvers.refinement.tables import HEAD_PEAK, LAST, NOTES, OVER, POOL, RECOMPUTE

if TYPE_CHECKING:
    from autockpt_solvers.refinement.tables import Numbers, Plan, Scratch, Stages

_NEAR = 20  # stages between two changes that are made at once, at most


@compiled
def settle(stages: Stages, plan: Plan, work: Scratch, room: int) -> bool:
    """Works out what follows from the tables of a plan.

    Args:
        stages: The graph.
        plan: The plan; `keep`, `hold` and, for the turn, `at_hand` are given.
        work: Scratch.
        room: Bytes to stay under.

    Returns:
        Whether the plan runs.
    """
    num_storages, num_stages = plan.touch.shape
    totals = plan.totals
    for numbers in (plan.start, plan.num_again, plan.live_bytes, plan.over, plan.runs, totals):
        numbers[:] = 0
    for flags in (plan.touch, plan.live):
        flags[:] = 0
    plan.in_head[:] = 0
    work.before[:] = 0
    work.dirty[:] = 1
    if not run_head(stages, plan, work):
        return False
    for k in range(num_stages):
        num_touched = run_stage(stages, plan, work, k)
        if num_touched < 0:
            return False
        totals[NOTES] = 0
        plan.at_hand[:, k + 1] = plan.at_hand[:, k]
        for i in range(num_touched):
            s = work.touched[i]
            plan.touch[s, k] = work.code[s]
            plan.at_hand[s, k + 1] = plan.hold[s, k] if stages.is_decided[s] else 1
            work.code[s] = 0
            work.is_touched[s] = 0
    fill_head(stages, plan)
    for s in range(num_storages):
        relive(stages, plan, work, s, 0, num_stages - 1)
        totals[NOTES] = 0
    totals[LAST] = num_stages - 1
    weigh_head(plan, room)
    weigh(stages, plan, work, room)
    plan.peak[num_stages] = stages.gap_bytes[num_stages]
    if plan.peak[num_stages] > room:
        totals[OVER] += stages.gap_runs[num_stages] * (plan.peak[num_stages] - room)
    return True


@compiled
def write_order(stages: Stages, plan: Plan, order: Numbers) -> int:
    """Writes the compute order of a plan; gives its length."""
    length = 0
    for place in range(stages.forward.size):
        if plan.in_head[stages.forward[place]]:
            order[length] = stages.forward[place]
            length += 1
    op = stages.forward.size
    for k in range(stages.row.size):
        while op < stages.forward.size + stages.row[k]:
            order[length] = op
            length += 1
            op += 1
        for j in range(plan.start[k], plan.start[k] + plan.num_again[k]):
            order[length] = plan.pool[j]
            length += 1
    end = stages.forward.size + stages.row.size + stages.gap_runs.sum()
    while op < end:
        order[length] = op
        length += 1
        op += 1
    return length


@compiled_within
def _tidy(plan: Plan, buffer: Numbers) -> None:
    """Moves all runs to the front of the pool, where what was taken back left it full of holes."""
    top = 0
    for k in range(plan.num_again.size):
        for j in range(plan.start[k], plan.start[k] + plan.num_again[k] + 1):
            buffer[top, 0] = plan.pool[j]
            buffer[top, 1] = plan.pool_bytes[j]
            top += 1
        plan.start[k] = top - plan.num_again[k] - 1
    plan.pool[:top] = buffer[:top, 0]
    plan.pool_bytes[:top] = buffer[:top, 1]
    plan.totals[POOL] = top


@compiled_within
def _kept_pair(
    stages: Stages, plan: Plan, choices: Numbers, state: Numbers, kind: int
) -> tuple[int, int]:
    """A storage to keep or no longer to keep, and one to do the opposite with; -1 for none."""
    one = choices[draw(state, choices.size)]
    other = -1
    if kind < 2:  # what it is made from
        op = stages.producer[one]
        count = stages.reads_at[op + 1] - stages.reads_at[op]
        if count:
            other = stages.reads[stages.reads_at[op] + draw(state, count)]
    elif kind < 3:
        other = choices[draw(state, choices.size)]
    if other >= 0 and (not stages.is_decided[other] or plan.keep[other] == plan.keep[one]):
        other = -1
    return one, other


@compiled_within
def _touched_at(stages: Stages, plan: Plan, state: Numbers, k: int) -> int:
    """A storage that some run of a stage touches; -1 where it is none to decide about."""
    run = draw(state, plan.num_again[k] + 1)
    unit, num_writes = stages.forward.size + k, 0
    if run < plan.num_again[k]:
        unit = plan.pool[plan.start[k] + run]
        num_writes = stages.writes_at[unit + 1] - stages.writes_at[unit]
    num_reads = stages.reads_at[unit + 1] - stages.reads_at[unit]
    if num_reads + num_writes == 0:
        return -1
    which = draw(state, num_reads + num_writes)
    if which < num_reads:
        s = stages.reads[stages.reads_at[unit] + which]
    else:
        s = stages.writes[stages.writes_at[unit] + which - num_reads]
    return s if stages.is_decided[s] else -1


@compiled_within
def _record(stages: Stages, plan: Plan, best: Numbers, lean: Numbers, found: Numbers) -> None:
    """Writes the plan's order down where it is the cheapest that fits, or the leanest."""
    totals = plan.totals
    if totals[OVER] == 0 and (found[0] < 0 or totals[RECOMPUTE] < found[0]):
        found[0] = totals[RECOMPUTE]
        found[1] = write_order(stages, plan, best)
    peak = max(totals[HEAD_PEAK], plan.peak.max())
    if peak < found[2]:
        found[2] = peak
        found[3] = write_order(stages, plan, lean)


@compiled_within
def _switch(plan: Plan, kept: tuple[int, int], held: tuple[int, int], at: tuple[int, int]) -> None:
    """Turns entries of the tables into their opposites; once more, and they are as before."""
    for s in kept:
        if s >= 0:
            plan.keep[s] ^= 1
    for i in range(2):
        if held[i] >= 0:
            plan.hold[held[i], at[i]] ^= 1


@compiled
def anneal_held(
    stages: Stages,
    plan: Plan,
    work: Scratch,
    buffers: tuple[Numbers, Numbers, Numbers, Numbers],
    state: Numbers,
    found: Numbers,
    room: int,
    steps: tuple[int, int, int],
    scale: tuple[float, float, float, float, float, float],
) -> None:
    """Walks from a plan through changed plans, taking worse ones ever more rarely.

    Args:
        stages: The graph.
        plan: The plan, settled; changed in place.
        work: Scratch.
        buffers: Scratch for the pool; storages that may be chosen to be kept; and the cheapest
            order that fits and the one with the lowest peak, gained here.
        state: State of the random numbers.
        found: Recompute time and length of the cheapest order (-1 when none), peak and length of
            the leanest.
        room: Bytes to stay under.
        steps: First step, step to stop before, and number of steps of the whole walk.
        scale: Time and bytes that count as one, first and last temperature, first and last weight
            of the bytes.
    """
    buffer, choices, best, lean = buffers
    num_stages, totals = plan.num_again.size, plan.totals
    first, stop, total = steps
    unit_time, unit_bytes, hot, cold, light, heavy = scale
    temperature = hot
    weight = light
    _record(stages, plan, best, lean, found)
    for step in range(first, stop):
        if step % 64 == 0 or step == first:
            temperature = hot * (cold / hot) ** (step / total)
            weight = light * (heavy / light) ** (step / total)
        # At every step: what one change adds at most has room in the other half, and no more.
        if totals[POOL] > plan.pool.size // 2:
            _tidy(plan, buffer)
        kind = draw(state, 14)
        kept, held, at = (-1, -1), (-1, -1), (num_stages, num_stages)
        if kind < 5:
            kept = _kept_pair(stages, plan, choices, state, kind)
        else:
            k = draw(state, num_stages)
            s = _touched_at(stages, plan, state, k)
            if s < 0:
                continue
            held, at = (s, -1), (k, num_stages)
            if kind >= 10:  # another one nearby, the other way round
                near = min(num_stages - 1, max(0, k + draw(state, 2 * _NEAR + 1) - _NEAR))
                other = _touched_at(stages, plan, state, near)
                if other < 0 or plan.hold[other, near] == plan.hold[s, k]:
                    continue
                held, at = (s, other), (k, near)
            elif kind >= 8:
                kept = (s, -1)
        over, recompute = totals[OVER], totals[RECOMPUTE]
        _switch(plan, kept, held, at)
        most = recompute + unit_time * (20 * temperature + weight * over / unit_bytes) + 1
        accepted = change(stages, plan, work, kept, at, room, most)
        if accepted:
            worse = (totals[RECOMPUTE] - recompute) / unit_time
            worse += weight * (totals[OVER] - over) / unit_bytes
            accepted = worse <= 0 or (
                worse < 20 * temperature
                and draw(state, 1 << 30) < math.exp(-worse / temperature) * (1 << 30)
            )
        if not accepted:
            _switch(plan, kept, held, at)
            take_back(stages, plan, work)
            continue
        _record(stages, plan, best, lean, found)
