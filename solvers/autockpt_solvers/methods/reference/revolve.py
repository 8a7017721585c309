"""`revolve`: binomial checkpointing of a chain with a number of snapshots.

Griewank and Walther, "Algorithm 799: revolve: an implementation of checkpointing for the reverse or
adjoint mode of computational differentiation", ACM Transactions on Mathematical Software 26(1),
2000. With s snapshots and every stage run again at most t times, a chain of C(s + t, s) stages can
be turned back; the split that attains this is binomial. Here snapshots are the values that enter a
stage, and every number of them is tried.
Guarantee: for equal stages without skips, least stage runs for that number of snapshots.
Complexity: quadratic in the stages per number of snapshots, at most 64 of which are tried.
Weakness: it counts stages, not bytes or time; a stage is run again just to be turned back even
where its values could have been kept; skips over stages cost memory that it does not see.
"""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.methods.reference.stages import Stages
from autockpt_solvers.orders.facts import orders_of

if TYPE_CHECKING:
    from autockpt_solvers.methods.reference.stages import Move
    from autockpt_solvers.problem import Problem

_MAX_STAGES = 512
_MAX_TRIED = 64


@cache
def _runs(length: int, snapshots: int) -> int:
    """Least number of stage runs that turn back `length` stages, the first one's input at hand."""
    if length <= 1:
        return length
    if snapshots == 0:
        return length * (length + 1) // 2
    repeats, reach = 0, 1
    while reach < length:  # C(snapshots + 1 + repeats, repeats) stages with `repeats` repeats
        repeats += 1
        reach = reach * (snapshots + 1 + repeats) // repeats
    # Griewank and Walther's closed form, in stage runs.
    beyond = reach * repeats // (snapshots + 2)
    return (repeats + 1) * length - beyond


@cache
def _split(length: int, snapshots: int) -> int:
    """How far to run on before the next snapshot; the first of the best.

    The least number of runs is convex in the length: the sum falls until the best, then rises.
    """

    def total(m: int) -> int:
        return m + _runs(length - m, snapshots - 1) + _runs(m, snapshots)

    low, high = 1, length - 1
    while low < high:
        middle = (low + high) // 2
        if total(middle + 1) >= total(middle):
            high = middle
        else:
            low = middle + 1
    return low


def moves(first: int, last: int, snapshots: int) -> list[Move]:
    """The plan that turns back the stages from `first` to `last` - 1.

    Args:
        first: First stage; what enters it is at hand.
        last: Stage to stop before.
        snapshots: Further stage inputs that may be at hand at once.

    Returns:
        Its moves.
    """
    if last - first == 1:
        return [("run", first), ("back", first)]
    if snapshots == 0:
        plan: list[Move] = []
        for stage in range(last - 1, first - 1, -1):
            plan += [("run", k) for k in range(first, stage + 1)]
            plan.append(("back", stage))
        return plan
    middle = first + _split(last - first, snapshots)
    return [
        *(("run", k) for k in range(first, middle)),
        *moves(middle, last, snapshots - 1),
        *moves(first, middle, snapshots),
    ]


def solve_revolve(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers one schedule per number of snapshots."""
    del seed
    deadline = time.monotonic() + time_limit_s
    stages = Stages(orders_of(problem.graph), _MAX_STAGES)
    num = len(stages.ops)
    if not stages.is_chain:
        return Attempt(orders=())
    tried = range(num - 1, -1, -1) if num <= _MAX_TRIED else _ladder(num - 1)
    found = []
    for snapshots in tried:
        found.append(stages.order(moves(0, num, snapshots)))
        if time.monotonic() > deadline:
            break
    return Attempt(orders=tuple(found))


def _ladder(most: int) -> list[int]:
    tried = [most]
    while tried[-1] > 0:
        tried.append(min(tried[-1] - 1, tried[-1] * 7 // 8))
    return tried
