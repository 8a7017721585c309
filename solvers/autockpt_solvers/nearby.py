"""`cheaper_budgets`: what a little more memory saves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.api import check_limits, clock_of
from autockpt_solvers.search.larger import points_above
from autockpt_solvers.session import Session
from autockpt_solvers.simulator import simulate

if TYPE_CHECKING:
    from autockpt_solvers.clock import Watcher
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.result import BudgetPoint
    from autockpt_solvers.schedule import Schedule


def cheaper_budgets(
    problem: Problem,
    schedule: Schedule,
    *,
    most: int = 3,
    time_limit_s: float = 10.0,
    seed: int = 0,
    watch: Watcher | None = None,
) -> tuple[BudgetPoint, ...]:
    """Find budgets a little larger than a problem's for which much cheaper plans are known.

    Use it when a plan recomputes much: near the smallest budget, a few bytes more may save most of
    that. It takes a second or two. `solve` may find even cheaper plans for these budgets.

    Args:
        problem: The problem that the schedule is for.
        schedule: A schedule that fits.
        most: How many budgets to return at most.
        time_limit_s: Ends the search.
        seed: As in `solve`.
        watch: As in `solve`.

    Returns:
        The budgets, ascending, each clearly cheaper than the one before. Empty if the schedule runs
        nothing again, if it repeats backward ops, or on graphs without a backward pass.

    Raises:
        TypeError: The time limit is not a number, or the seed is not an int.
        ValueError: The time limit is not positive, or the seed is out of range.
        ScheduleError: The schedule cannot run.
    """
    check_limits(time_limit_s, seed)
    graph = problem.graph
    own = range(graph.num_forward, len(graph.ops))
    order = schedule.compute_order
    recompute_ns = simulate(graph, schedule).recompute_ns
    repeats = sorted(op for op in order if op >= graph.num_forward) != list(own)
    if not recompute_ns or repeats or not 0 < graph.num_forward < len(graph.ops):
        return ()
    with clock_of(time_limit_s, watch, 0) as clock:
        session = Session(graph=graph, seed=seed, clock=clock)
        return points_above(problem, session, order, most=most)
