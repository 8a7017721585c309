"""Graphs without a backward pass, in which any op may run again, in any order.

First `moments`: its plan for a training graph is mostly optimal, and proven so. If not, `local`
anneals until it meets the bound of `moments` or its steps are used up. On small graphs, `intervals`
then looks for a better plan, or proves that its class has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.attempt import EVERY_PLAN, Attempt
from autockpt_solvers.bounds.moments import solve_relaxations
from autockpt_solvers.methods.local import anneal_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import Session

_SMALL = 160  # ops; `intervals` is asked for graphs up to here
_SHARE = 0.3  # of the time for `moments`, at most
_PROOF_EFFORT = 10.0  # of `intervals`: deterministic time, in about seconds


def solve_free(problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
    """Offer the plans of the three methods, with the best one's method and the proven bound."""
    deadline = session.clock.until(time_limit_s)
    facts, budget = session.facts, problem.available_bytes
    found = solve_relaxations(
        problem, time_limit_s=time_limit_s * _SHARE, seed=session.seed, clock=session.clock
    )
    offers: list[tuple[str, Sequence[int]]] = [("local", facts.baseline())]
    offers += [("moments", order) for order in found.orders]

    def best() -> tuple[int, int, int]:
        """Bytes over the budget, recompute time and index of the best offer."""
        return min((*facts.lack(order, budget), k) for k, (_, order) in enumerate(offers))

    def is_done() -> bool:
        return best()[:2] <= (0, found.bound_ns) or session.clock.now() >= deadline

    if not is_done():
        more = anneal_from(
            problem,
            session,
            facts.baseline(),
            others=[offers[best()[2]][1]] if found.orders else (),
            time_limit_s=deadline - session.clock.now(),
            goal_ns=found.bound_ns,
        )
        offers += [("local", order) for order in more.orders]
    bound_ns, bound_class = found.bound_ns, EVERY_PLAN
    if not is_done() and not found.is_infeasible and len(session.graph.ops) <= _SMALL:
        from autockpt_solvers.methods.any_order.intervals import solve_intervals

        left = session.clock.seconds_left(deadline)
        more = solve_intervals(problem, session, time_limit_s=left, effort=_PROOF_EFFORT)
        offers += [("intervals", order) for order in more.orders]
        if best()[:2] <= (0, more.lower_bound_ns):
            bound_ns, bound_class = more.lower_bound_ns, more.bound_class
    method, _ = offers[best()[2]]
    return Attempt(
        orders=tuple(order for _, order in offers),
        method=method,
        lower_bound_ns=bound_ns,
        lower_bound_bytes=budget + 1 if found.is_infeasible else 0,
        bound_class=bound_class,
    )
