"""`ilp`: windows planned by minimum cuts and integer programs, composed by dynamic programming.

The recipe, after Checkmate (Jain et al. 2020), Rotor (Beaumont et al. 2019) and Rockmate (Zhao et
al. 2023):

1. Cut the graph into a chain of segments (`chain`); windows are runs of segments (`window`).
2. Windows that are the same problem are one kind. Per kind, make options: ways to run it, each with
   the bytes it keeps, the peak of its turn and its time (`generate`, `option`).
3. Compose: one option per window, windows covering the chain, cheapest in the room (`compose`).
4. Where room is short, integer programs (CP-SAT) ask every kind for its least peak first (`model`).
5. Polish: integer programs ask for less time in the room that a window of the plan has; what they
   find joins the options, and the plan is composed anew (`polish`).
6. Refine: where the lower bound leaves room, annealing over what is kept and held, on the whole
   graph and across the windows' borders (`refine`).

Every heuristic runs too, and the best answer of all is taken. A graph without a backward pass has
no turns for windows to be planned by: `local` answers for it, and is named in the result.

Guarantee: never worse than the heuristics; each integer program is exact for its window unless it
runs into its limit. Complexity: grows with the number of *different* windows; only the composition
grows with the number of segments, and refinement takes fewer steps the larger a large graph is.
Weakness: on graphs of many thousand ops what crosses a window's border is kept; the backward ops
run once each, in an order that is chosen before (see `moving`).
"""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.methods.heuristics import solve_heuristics
from autockpt_solvers.methods.ilp.polish import is_short, polish, squeeze
from autockpt_solvers.methods.ilp.pool import Pool
from autockpt_solvers.orders.facts import Orders, orders_of
from autockpt_solvers.refinement.refine import can_touch_up, refine, touch_up
from autockpt_solvers.schedule import with_frees
from autockpt_solvers.session import once
from autockpt_solvers.simulator import ScheduleError, simulate

if TYPE_CHECKING:
    from autockpt_solvers.problem import Problem


def solve_ilp(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers the plan found from windows, and what every heuristic offers."""
    if problem.graph.num_forward == len(problem.graph.ops):
        from autockpt_solvers.methods.local import solve_local

        answer = solve_local(problem, time_limit_s=time_limit_s, seed=seed)
        return Attempt(orders=answer.orders, method="local")
    started = time.monotonic()
    deadline = started + time_limit_s
    graph = problem.graph
    orders = orders_of(graph)

    heuristics = solve_heuristics(problem, time_limit_s=time_limit_s, seed=seed)
    plans: list[list[int]] = []
    if any(graph.is_needed[: graph.num_forward]):
        plans = _plans(orders, problem.room_bytes, deadline, seed)
        plans = [plan for plan in plans if _runs(orders, plan)]
        known = (*heuristics.fixed, *heuristics.offered, *plans)
        start = orders.best(known, problem.room_bytes)[0]
        plans += refine(problem, orders, start, seed=seed, deadline=deadline)
    found = orders.best(plans, problem.room_bytes)
    improve = partial(touch_up, seed=seed, deadline=deadline) if can_touch_up(orders) else None
    return dataclasses.replace(heuristics, orders=tuple(found), improve=improve)


def _runs(orders: Orders, order: list[int]) -> bool:
    """Whether an order runs; a window may keep what its region can no longer make by then.

    That takes ops that only the backward needs, behind the last op that the forward pass needs, and
    more than one region.
    """
    if len(set(orders.region)) == 1:
        return True
    try:
        simulate(orders.graph, with_frees(orders.graph, order))
    except ScheduleError:
        return False
    return True


def _plans(orders: Orders, room: int, deadline: float, seed: int) -> list[list[int]]:
    """The plan for the room, if there is one, and the leanest."""
    limit = orders.evaluate(orders.baseline())[0]
    pool = once("pool", lambda: Pool(orders, deadline))
    lean = once("lean", lambda: pool.leanest(limit))
    if lean is None:
        return []
    if is_short(room, pool.replay(lean)[0]):
        pool, lean = once("squeezed", partial(squeeze, pool.copy(deadline), lean, limit, seed))
    pool = pool.copy(deadline)
    plan = pool.plan(room)
    plans = [lean] if plan is None else [polish(pool, plan, room, seed), lean]
    return [plan.order(pool.chain) for plan in plans]
