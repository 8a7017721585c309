"""Budgets a little larger than one whose plan is dear, at which a cheaper plan is known.

Near the least budget a few bytes more may save most of what a plan recomputes. A short annealing
run from the plan itself, at a few larger budgets one after the other, is enough to show that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.orders.reordered import with_backward
from autockpt_solvers.problem import Problem
from autockpt_solvers.refinement.refine import (
    CHAINS,
    Refiner,
    Start,
    can_refine,
    can_start,
    work_per_step,
)
from autockpt_solvers.result import BudgetPoint
from autockpt_solvers.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Larger budgets to try, as shares of the way to the peak of running nothing twice.
_SHARES = (0.01, 0.02, 0.04, 0.08, 0.16)
_CHEAPER = 0.8  # a budget is named if it costs at most this times the one named before
_RUN = Start(temperature=3e-4, weight=0.06)
_STEPS_OF_EACH, _STEPS, _MOST_WORK = 25, 20_000, 60_000_000  # of a run, as in `descend`


def points_above(
    problem: Problem, session: Session, order: Sequence[int], *, most: int
) -> tuple[BudgetPoint, ...]:
    """Larger budgets and what a plan for them recomputes, the smallest budget first.

    Args:
        problem: The problem.
        session: The session of its graph.
        order: A plan for it that runs each backward op once.
        most: How many points to return at most.
    """
    graph = session.graph
    backward = [op for op in order if op >= graph.num_forward]
    moved = with_backward(graph, backward)
    place = {op: k for k, op in enumerate(moved.originals)}
    there = session.of_same_search(moved.graph)
    started = [place[op] for op in order]
    _, cost_ns = there.facts.evaluate(started)
    points: list[BudgetPoint] = []
    for budget, recompute_ns in _tried(problem.available_bytes, there, started):
        if len(points) == most or session.clock.is_over:
            break
        if recompute_ns <= _CHEAPER * cost_ns:
            cost_ns = recompute_ns
            point = BudgetPoint(
                budget_bytes=budget + problem.fixed_bytes, recompute_ns=recompute_ns
            )
            points.append(point)
    return tuple(points)


def _tried(room: int, session: Session, order: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Budgets that were tried, and the recompute time of the cheapest plan known for each."""
    from autockpt_solvers.methods.heuristics import solve_heuristics

    facts, clock = session.facts, session.clock
    baseline = facts.baseline()
    peak = facts.evaluate(baseline)[0]
    known: list[Sequence[int]] = [order]
    for share in _SHARES:
        budget = room + int(share * (peak - room))
        problem = Problem(graph=session.graph, budget_bytes=budget)
        left = clock.seconds_left(clock.end)
        known += solve_heuristics(problem, session, time_limit_s=left).offered
        starts = [plan for plan in known if can_start(facts, plan)]
        refiner = Refiner(facts, budget, session.seed, clock)
        if starts and can_refine(facts) and refiner.has_choices:
            refiner.compile()
            steps = min(_STEPS_OF_EACH * refiner.size, _STEPS, _MOST_WORK // work_per_step(facts))
            refiner.run(facts.best(starts, budget)[0], steps, clock.end, _RUN, chains=CHAINS)
            known += [] if refiner.best_order is None else [refiner.best_order]
        known = list(facts.best(known, budget))[:1]
        yield max(budget, facts.evaluate(known[0])[0]), facts.evaluate(known[0])[1]
    yield peak, 0
