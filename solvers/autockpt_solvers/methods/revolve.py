"""`revolve`: binomial checkpointing of a chain with a number of snapshots.

Griewank and Walther, "Algorithm 799: revolve: an implementation of checkpointing for the reverse or
adjoint mode of computational differentiation", ACM Transactions on Mathematical Software 26(1),
2000. With s snapshots, and every segment recomputed at most t times, C(s + t, s) segments in a row
can be reversed; the split that attains this is binomial. Here snapshots are the values that enter a
segment, and every number of them is tried.
Guarantee: for equal segments without skips, the fewest segment runs for that number of snapshots.
Complexity: per number of snapshots, quadratic in the segments; it tries at most 64 of them.
Weakness: it counts segments, not bytes or time. It recomputes every segment just before its
backward, even if its values could have been kept. Skips over segments cost memory that it does not
count.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.methods.segment_chain import SegmentChain

if TYPE_CHECKING:
    from autockpt_solvers.methods.segment_chain import Move
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import Session

_MAX_SEGMENTS = 512  # of the chain; more are joined
_MAX_TRIED = 64  # numbers of snapshots; of longer chains, ever fewer of the smaller ones


@cache
def _runs(length: int, snapshots: int) -> int:
    """Fewest segment runs that reverse `length` segments, with the first one's input in memory."""
    if length <= 1:
        return length
    if snapshots == 0:
        return length * (length + 1) // 2
    repeats, reach = 0, 1
    while reach < length:  # C(snapshots + 1 + repeats, repeats) segments with `repeats` repeats
        repeats += 1
        reach = reach * (snapshots + 1 + repeats) // repeats
    # Griewank and Walther's closed form, in segment runs.
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
    """The plan that reverses the segments from `first` to `last` - 1.

    Args:
        first: First segment; its input is in memory.
        last: Segment to stop before.
        snapshots: Further segment inputs that may be in memory at once.

    Returns:
        Its moves.
    """
    if last - first == 1:
        return [("run", first), ("back", first)]
    if snapshots == 0:
        plan: list[Move] = []
        for segment in range(last - 1, first - 1, -1):
            plan += [("run", k) for k in range(first, segment + 1)]
            plan.append(("back", segment))
        return plan
    middle = first + _split(last - first, snapshots)
    return [
        *(("run", k) for k in range(first, middle)),
        *moves(middle, last, snapshots - 1),
        *moves(first, middle, snapshots),
    ]


def solve_revolve(problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
    """Offer one plan per number of snapshots."""
    deadline = session.clock.until(time_limit_s)
    segments = SegmentChain(session.facts, _MAX_SEGMENTS)
    num = len(segments.ops)
    if not segments.is_chain:
        return Attempt(orders=())
    tried = range(num - 1, -1, -1) if num <= _MAX_TRIED else _ladder(num - 1)
    found = []
    for snapshots in tried:
        found.append(segments.order(moves(0, num, snapshots)))
        if session.clock.now() > deadline:
            break
    return Attempt(orders=tuple(found))


def _ladder(most: int) -> list[int]:
    tried = [most]
    while tried[-1] > 0:
        tried.append(min(tried[-1] - 1, tried[-1] * 7 // 8))
    return tried
