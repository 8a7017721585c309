"""`moments`: plans from the few moments at which memory is short, and a bound for every plan.

A moment is the first run of an op. A relaxation counts memory at a few moments only; its solution
becomes a compute order; and if that does not fit, the moment at which it needs most joins the
others (see `bounds.moments`). On training graphs memory is mostly short at one moment, and the
first answers are the last. It is a form of logic-based Benders decomposition, with the simulator as
the subproblem.
Guarantee: the bound holds for every plan. An order that fits and costs no more than it is optimal.
Complexity: one integer program per round, with a boolean per op and stage and one per storage and
stage; NP-hard, as one moment alone contains a knapsack.
Weakness: moments lie on a chain of ops of which each needs the one before, and the relaxation does
not count what repeated runs need while they run. So the orders of wide graphs may never fit; they
are a start for `local`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.attempt import EVERY_PLAN, Attempt
from autockpt_solvers.bounds.moments import MOST_OPS, solve_relaxations

if TYPE_CHECKING:
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import Session


def solve_moments(problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
    """Offer the orders made from relaxations; without a backward pass, their bound too.

    Raises:
        ValueError: The graph is too large for the method.
    """
    graph, facts, budget = session.graph, session.facts, problem.available_bytes
    if len(graph.ops) > MOST_OPS:
        raise ValueError(
            f"method 'moments' takes graphs of at most {MOST_OPS} ops, and this one has "
            f"{len(graph.ops)}: use 'auto'"
        )
    found = solve_relaxations(
        problem, time_limit_s=time_limit_s, seed=session.seed, clock=session.clock
    )
    offered = tuple(facts.best([facts.baseline(), *found.orders], budget))
    if graph.num_forward < len(graph.ops):
        return Attempt(orders=offered)
    return Attempt(
        orders=offered,
        lower_bound_ns=found.bound_ns,
        lower_bound_bytes=budget + 1 if found.is_infeasible else 0,
        bound_class=EVERY_PLAN,
    )
