"""`moments`: plans from the few moments at which memory is short, and a bound for every plan.

The relaxation (see `relaxation`) counts memory at a few moments only. Its solution says what runs
again and after which moment, and becomes a compute order: stage by stage, every repeated run right
before the first op that reads it. Where that order fits, it is the best of all plans, whatever
their order and however often they run an op. Where it does not, the moment at which it needs most
joins the others, and the relaxation is solved again.

On training graphs memory is mostly short at one moment, and the first answers are the last. It is
a form of logic-based Benders decomposition, with the simulator as the subproblem.
Guarantee: the bound holds for every plan; an order that fits and costs no more than it is optimal.
Complexity: one integer program per round, with a boolean per op and stage and one per storage and
stage; NP-hard, as one moment alone holds a knapsack.
Weakness: moments lie on a chain of ops of which each needs the one before, and what repeated runs
need while they run is not in the relaxation: so the orders of wide graphs may never fit, and serve
as a start for `local`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.attempt import EVERY_PLAN, Attempt
from autockpt_solvers.bounds.moments import MOST_OPS, solve_relaxations
from autockpt_solvers.orders.facts import Orders

if TYPE_CHECKING:
    from autockpt_solvers.problem import Problem


def solve_moments(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers the orders made from relaxations; on graphs without a backward pass, their bound too.

    Args:
        problem: The problem.
        time_limit_s: Ends the search.
        seed: Random seed.

    Raises:
        ValueError: If the graph is too large for the method.
    """
    graph = problem.graph
    if len(graph.ops) > MOST_OPS:
        raise ValueError(
            f"method 'moments' takes graphs of at most {MOST_OPS} ops, and this one has "
            f"{len(graph.ops)}: use 'auto'"
        )
    found = solve_relaxations(problem, time_limit_s=time_limit_s, seed=seed)
    orders = Orders(graph)
    offered = tuple(orders.best([orders.baseline(), *found.orders], problem.room_bytes))
    if graph.num_forward < len(graph.ops):
        return Attempt(orders=offered)
    return Attempt(
        orders=offered,
        lower_bound_ns=found.bound_ns,
        lower_bound_bytes=problem.room_bytes + 1 if found.is_infeasible else 0,
        bound_class=EVERY_PLAN,
    )
