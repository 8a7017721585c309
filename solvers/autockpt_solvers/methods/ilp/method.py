"""`ilp`: windows planned by minimum cuts and integer programs, composed by dynamic programming.

After Checkmate (Jain et al. 2020), Rotor (Beaumont et al. 2019) and Rockmate (Zhao et al. 2023):

The steps are named as in docs/engine.md, where they are parts of step 4:

a. Heuristics: `mincut`, `greedy` and `revolve` offer plans (`methods.heuristics`).
b. Windows: cut the forward pass into segments (`segments`). A window is some consecutive segments,
   with their part of the backward (`window`). Windows that are the same problem are one kind. Per
   kind, find options: ways to run it, each with the bytes it keeps, its peak and its time. Minimum
   cuts at every price give the curve from most kept to least kept (`generate`, `option`).
c. Composition: windows that cover all segments, one option each, at the least time that fits the
   budget (`compose`).
d. Nesting, if the budget is short: integer programs (CP-SAT) find leaner options (`model`), and
   long windows are nested from shorter ones (`nest`); both in `squeeze`.
e. Refinement: annealing over what the plan keeps, on the whole graph, across the windows' borders,
   from the best plan of windows and heuristics (`refinement`).

A graph without a backward pass has no windows: `local` answers, and the result says so.

Guarantee: never worse than `greedy`, `mincut` and `revolve`, which it starts from. Each integer
program is exact for its window unless it runs into its limit.
Complexity: grows with the number of *different* windows. Only the composition grows with the number
of segments. Refinement takes fewer steps the larger a large graph is.
Weakness: on graphs of many thousand ops, what crosses a window's border is kept. Each backward op
runs once, in an order that is chosen beforehand (see `search.backward`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.methods.heuristics import solve_heuristics
from autockpt_solvers.methods.ilp.pool import OptionPool
from autockpt_solvers.methods.ilp.squeeze import is_short, squeeze
from autockpt_solvers.refinement.refine import can_improve, can_start, improve, refine
from autockpt_solvers.schedule import with_frees
from autockpt_solvers.simulator import ScheduleError, simulate

if TYPE_CHECKING:
    from autockpt_solvers.methods.ilp.compose import WindowPlan
    from autockpt_solvers.orders.facts import GraphFacts
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import Session


def solve_ilp(problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
    """Offer the best plan of windows, refined, and what the heuristics offer."""
    graph, facts = session.graph, session.facts
    if graph.num_forward == len(graph.ops):
        from autockpt_solvers.methods.local import solve_local

        answer = solve_local(problem, session, time_limit_s=time_limit_s)
        return Attempt(orders=answer.orders, method="local")
    deadline = session.clock.until(time_limit_s)
    session.clock.begin("trying quick heuristics")
    heuristics = solve_heuristics(problem, session, time_limit_s=time_limit_s)
    plans: list[list[int]] = []
    if any(graph.is_needed[: graph.num_forward]):
        plans = [plan for plan in _window_plans(problem, session, deadline) if _runs(facts, plan)]
        session.clock.begin("improving the plan")
        lean = () if session.least is None else (session.least,)
        known = [plan for plan in (*heuristics.offered, *lean, *plans) if can_start(facts, plan)]
        for start in facts.best(known, problem.available_bytes)[:1]:
            plans += refine(problem, session, start, deadline=deadline)
    return dataclasses.replace(
        heuristics,
        orders=tuple(facts.best(plans, problem.available_bytes)),
        improve=partial(improve, session=session, deadline=deadline)
        if can_improve(facts)
        else None,
    )


@dataclass(slots=True, kw_only=True)
class Windows:
    """What `ilp` makes once per session.

    Attributes:
        pool: Windows, with the options that minimum cuts find.
        leanest: The leanest plan from them, if any.
        squeezed: Pool and leanest plan after `squeeze`; made when a budget is short.
    """

    pool: OptionPool
    leanest: WindowPlan | None
    squeezed: tuple[OptionPool, WindowPlan] | None = None


def _window_plans(problem: Problem, session: Session, deadline: float) -> list[list[int]]:
    """The cheapest plan of windows that fits, if there is one, and the leanest."""
    facts, budget = session.facts, problem.available_bytes
    limit = facts.evaluate(facts.baseline())[0]
    session.clock.begin("planning parts of the graph")
    if session.windows is None:
        pool = OptionPool(facts, session.clock, deadline)
        session.windows = Windows(pool=pool, leanest=pool.leanest(limit))
    made = session.windows
    if made.leanest is None:
        return []
    pool, lean = made.pool, made.leanest
    if is_short(budget, pool.evaluate(lean)[0]):
        if made.squeezed is None:
            session.clock.begin("searching for plans with a lower peak")
            leaner = pool.copy(deadline)
            made.squeezed = (leaner, squeeze(leaner, lean, limit, session.seed))
        pool, lean = made.squeezed
    plan = pool.plan(budget)
    return [p.order(pool.segments) for p in (plan, lean) if p is not None]


def _runs(facts: GraphFacts, order: list[int]) -> bool:
    """Whether an order can run.

    A window may keep what its region can no longer make by then, and what ops make that only the
    backward needs, of which an earlier window runs none.
    """
    graph = facts.graph
    is_simple = all(
        graph.is_required[k] or not graph.is_needed[k] for k in range(graph.num_forward)
    )
    if is_simple and len(set(facts.region)) == 1:
        return True
    try:
        simulate(facts.graph, with_frees(facts.graph, order))
    except ScheduleError:
        return False
    return True
