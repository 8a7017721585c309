"""The inner loop of `ilp`'s refinement: annealing over what is held, on plain arrays.

A plan is two tables of booleans: which storages the forward pass keeps, and which storages are
still held after each backward op that touched them. What is missing when a backward op comes is
made again right before it, in forward order. So every state is a plan, one changed entry may run
or spare a whole chain of ops, and no border between windows stands in the way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.methods.annealing import draw, evaluate
from autockpt_solvers.methods.compiling import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray


@compiled
def decode(  # noqa: C901 - one pass over the backward ops
    keep: NDArray[np.int64],
    hold: NDArray[np.uint8],
    graph: tuple[NDArray[np.int64], ...],
    ranks: tuple[NDArray[np.int64], ...],
    work: tuple[NDArray[np.int64], ...],
    order: NDArray[np.int64],
    touched: NDArray[np.int64],
) -> tuple[int, int]:
    """Writes the compute order of a plan, and what its backward ops touch.

    Args:
        keep: Per storage, whether it is kept from the forward pass.
        hold: Per storage and backward op, whether it is held after that op.
        graph: As in `annealing.evaluate`.
        ranks: Forward ops in the order they run, the place of each, and per storage whether the
            tables decide about it.
        work: Scratch: what is at hand, what ran, marks, a stack, what is to be made again.
        order: Gains the compute order.
        touched: Gains the touched storages and the backward ops, as rows of two.

    Returns:
        The length of the order, 0 when the plan would not run; the number of rows.
    """
    reads_at, reads, writes_at, writes = graph[0], graph[1], graph[2], graph[3]
    is_output, required, region = graph[7], graph[8], graph[10]
    rerunnable, producer = graph[12], graph[13]
    forward, place, decided = ranks
    at_hand, ran, marked, stack, again = work
    num_forward = forward.size
    num_touched = 0
    top = 0
    for op in range(num_forward):
        ran[op] = required[op]
    for s in range(keep.size):
        op = producer[s]
        at_hand[s] = op < num_forward and (keep[s] or (is_output[s] and required[op]))
        if at_hand[s] and not ran[op]:
            ran[op] = 1
            stack[top] = op
            top += 1
    while top > 0:
        top -= 1
        op = stack[top]
        for k in range(reads_at[op], reads_at[op + 1]):
            other = producer[reads[k]]
            if not ran[other]:
                ran[other] = 1
                stack[top] = other
                top += 1
    length = 0
    for k in range(num_forward):
        if ran[forward[k]]:
            order[length] = forward[k]
            length += 1
    for row in range(rerunnable.size - num_forward):
        stage = num_forward + row
        for k in range(reads_at[stage], reads_at[stage + 1]):
            if not at_hand[reads[k]]:
                stack[top] = reads[k]
                top += 1
        count = 0
        failed = False
        while top > 0:
            top -= 1
            op = producer[stack[top]]
            if at_hand[stack[top]] or marked[op]:
                continue
            if op >= num_forward or region[op] != region[stage] or (ran[op] and not rerunnable[op]):
                failed = True
                top = 0
                break
            marked[op] = 1
            k = count  # insertion keeps them in the order they run
            while k > 0 and place[again[k - 1]] > place[op]:
                again[k] = again[k - 1]
                k -= 1
            again[k] = op
            count += 1
            for k in range(reads_at[op], reads_at[op + 1]):
                if not at_hand[reads[k]]:
                    stack[top] = reads[k]
                    top += 1
        for k in range(count):
            marked[again[k]] = 0
        if failed or length + count + 1 > order.size:
            return 0, 0
        for k in range(count):
            op = again[k]
            ran[op] = 1
            order[length] = op
            length += 1
            for j in range(writes_at[op], writes_at[op + 1]):
                at_hand[writes[j]] = 1
        order[length] = stage
        length += 1
        again[count] = stage
        for k in range(count + 1):
            op = again[k]
            for j in range(reads_at[op], reads_at[op + 1]):
                s = reads[j]
                if decided[s]:
                    if num_touched < touched.shape[0]:
                        touched[num_touched, 0] = s
                        touched[num_touched, 1] = row
                        num_touched += 1
                    if not hold[s, row]:
                        at_hand[s] = 0
            for j in range(writes_at[op], writes_at[op + 1]):
                s = writes[j]
                if op == stage:
                    at_hand[s] = 1
                elif decided[s] and not hold[s, row]:
                    at_hand[s] = 0
    return length, num_touched


@compiled
def anneal_held(  # noqa: C901 - one loop, so that it compiles to one
    keep: NDArray[np.int64],
    hold: NDArray[np.uint8],
    graph: tuple[NDArray[np.int64], ...],
    ranks: tuple[NDArray[np.int64], ...],
    work: tuple[tuple[NDArray[np.int64], ...], tuple[NDArray[np.int64], ...]],
    buffers: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    touched: NDArray[np.int64],
    state: NDArray[np.int64],
    found: NDArray[np.int64],
    room: int,
    steps: tuple[int, int, int],
    scale: tuple[float, float, float, float, float, float],
) -> None:
    """Walks from a plan through changed plans, taking worse ones ever more rarely.

    Args:
        keep: As in `decode`; changed in place.
        hold: As in `decode`; changed in place.
        graph: As in `annealing.evaluate`.
        ranks: As in `decode`.
        work: Scratch of `decode`, and of `annealing.evaluate`.
        buffers: Scratch for the order; what may be chosen to be kept; and the cheapest order that
            fits and the one with the lowest peak, gained here.
        touched: As in `decode`.
        state: State of the random numbers.
        found: Recompute time and length of the cheapest order (-1 when none), peak and length of
            the leanest.
        room: Bytes to stay under.
        steps: First step, step to stop before, and number of steps of the whole walk.
        scale: Time and bytes that count as one, first and last temperature, first and last weight
            of the bytes.
    """
    order, choices, best, lean = buffers
    reads_at, reads, producer = graph[0], graph[1], graph[13]
    decided = ranks[2]
    first, stop, total = steps
    unit_time, unit_bytes, hot, cold, light, heavy = scale
    changed = np.zeros((2, 2), dtype=np.int64)
    length, num_touched = decode(keep, hold, graph, ranks, work[0], order, touched)
    over, peak, recompute = evaluate(order, length, graph, work[1], room)
    temperature = hot
    weight = light
    for step in range(first, stop):
        if step % 64 == 0 or step == first:
            temperature = hot * (cold / hot) ** (step / total)
            weight = light * (heavy / light) ** (step / total)
        kind = draw(state, 10)
        count = 1
        if kind < 5 or num_touched == 0:
            s = choices[draw(state, choices.size)]
            changed[0, 0] = s
            changed[0, 1] = -1
            other = s
            if kind < 2:  # keep what it is made from instead, or the other way round
                op = producer[s]
                if reads_at[op + 1] > reads_at[op]:
                    other = reads[reads_at[op] + draw(state, reads_at[op + 1] - reads_at[op])]
            elif kind < 3:
                other = choices[draw(state, choices.size)]
            if decided[other] and keep[other] != keep[s]:  # one comes, one goes
                changed[1, 0] = other
                changed[1, 1] = -1
                count = 2
        else:
            row = draw(state, num_touched)
            s = touched[row, 0]
            changed[0, 0] = s
            changed[0, 1] = touched[row, 1]
            if kind >= 8:
                changed[1, 0] = s
                changed[1, 1] = -1
                count = 2
        for k in range(count):
            if changed[k, 1] < 0:
                keep[changed[k, 0]] = 1 - keep[changed[k, 0]]
            else:
                hold[changed[k, 0], changed[k, 1]] = 1 - hold[changed[k, 0], changed[k, 1]]
        new_length, new_touched = decode(keep, hold, graph, ranks, work[0], order, touched)
        accepted = new_length > 0
        if accepted:
            new_over, new_peak, new_recompute = evaluate(order, new_length, graph, work[1], room)
            worse = (new_recompute - recompute) / unit_time
            worse += weight * (new_over - over) / unit_bytes
            accepted = new_over >= 0 and (
                worse <= 0
                or (
                    worse < 20 * temperature
                    and draw(state, 1 << 30) < math.exp(-worse / temperature) * (1 << 30)
                )
            )
        # After a rejected change the rows of `touched` are of that plan: good enough to draw from.
        if new_length > 0:
            num_touched = new_touched
        if not accepted:
            for k in range(count):
                if changed[k, 1] < 0:
                    keep[changed[k, 0]] = 1 - keep[changed[k, 0]]
                else:
                    hold[changed[k, 0], changed[k, 1]] = 1 - hold[changed[k, 0], changed[k, 1]]
            continue
        over, peak, recompute = new_over, new_peak, new_recompute
        if over == 0 and (found[0] < 0 or recompute < found[0]):
            found[0] = recompute
            found[1] = new_length
            best[:new_length] = order[:new_length]
        if peak < found[2]:
            found[2] = peak
            found[3] = new_length
            lean[:new_length] = order[:new_length]
