"""`auto`: the method that suits the graph.

`ilp`, which hands graphs without a backward pass to `local`; on small ones, `intervals` then looks
for a better plan or a proof. Where a graph with a backward pass is small, or `ilp` finds nothing
that fits and the graph is not large, `local` goes on from the best of `ilp`.
Guarantee: never worse than `ilp`.
Complexity: that of the methods it calls.
Weakness: the choice looks at sizes only.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from autockpt_solvers.methods.attempt import Attempt
from autockpt_solvers.methods.ilp import solve_ilp
from autockpt_solvers.simulate import simulate

if TYPE_CHECKING:
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.schedule import Schedule

_SMALL = 48  # ops; below, annealing costs next to nothing
_LARGE = 160  # ops; above, annealing does not find what `ilp` has not
_EFFORT = 0.2
_PROOF = 10.0


def solve_auto(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers the schedules of the method chosen, and says which it was."""
    started = time.monotonic()
    graph = problem.graph
    attempt = solve_ilp(problem, time_limit_s=time_limit_s, seed=seed)
    if attempt.method:
        left = time_limit_s - (time.monotonic() - started)
        return _proven(problem, attempt, left, seed)
    fixed, first = attempt.fixed, (*attempt.fixed, *attempt.schedules)
    ranks = [_rank(problem, schedule) for schedule in first]
    best = min(range(len(first)), key=ranks.__getitem__)
    is_stuck = ranks[best][0] > 0
    left = time_limit_s - (time.monotonic() - started)
    if left <= 0 or ranks[best] == (0, 0) or len(graph.ops) > (_LARGE if is_stuck else _SMALL):
        return Attempt(schedules=first, fixed=fixed, method="ilp")
    from autockpt_solvers.methods.local import improve

    start = first[best].compute_order
    more = improve(problem, start, time_limit_s=left, seed=seed, effort=_EFFORT).schedules
    is_better = min(_rank(problem, schedule) for schedule in more) < ranks[best]
    return Attempt(schedules=(*first, *more), fixed=fixed, method="local" if is_better else "ilp")


def _proven(problem: Problem, attempt: Attempt, time_limit_s: float, seed: int) -> Attempt:
    """What `intervals` adds to an answer for a small graph without a backward pass."""
    before = min(_rank(problem, schedule) for schedule in attempt.schedules)
    if time_limit_s <= 0 or before == (0, 0) or len(problem.graph.ops) > _LARGE:
        return attempt
    from autockpt_solvers.methods.intervals import solve_intervals

    more = solve_intervals(problem, time_limit_s=time_limit_s, seed=seed, effort=_PROOF)
    is_better = min(_rank(problem, schedule) for schedule in more.schedules) < before
    return dataclasses.replace(
        more,
        schedules=(*attempt.schedules, *more.schedules),
        method="intervals" if is_better else attempt.method,
    )


def _rank(problem: Problem, schedule: Schedule) -> tuple[int, int]:
    """What a schedule lacks: bytes over the room first, recompute time second."""
    timeline = simulate(problem.graph, schedule)
    return max(0, timeline.peak_bytes - problem.room_bytes), timeline.recompute_ns
