"""Descent: how little memory a graph can be run in, found within a second or so.

The runs are those of `refine`, but strict: bytes over the lowest possible peak count from the
start. The number of steps depends on the graph alone, so the answer depends on the clock only if
the time of the whole search is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.refinement.refine import (
    CHAINS,
    Refiner,
    Start,
    can_refine,
    can_start,
    work_per_step,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.session import Session

_WARM_RUN, _STRICT_RUN = Start(temperature=1e-3, weight=0.1), Start(temperature=1e-4, weight=1.0)
# Runs from the leanest plan, then a strict one from the best plan found. Which run gets far is a
# matter of chance, but runs that are too short do not get far at all. So large graphs get fewer
# runs; if they get few, warm ones, which depend less on where they begin.
_RUNS, _FEW_RUNS = 5, 2
_STEPS_OF_EACH, _STEPS = 25, 20_000  # of a run: so many per decision and read, and at most so many
_MOST_WORK = 300_000_000  # in runs and reads, for all runs but the last: about a second


def descend(
    session: Session, orders: Sequence[Sequence[int]], least_bytes: int
) -> list[int] | None:
    """A plan with a lower peak than all `orders`, or None.

    Args:
        session: The session of the graph.
        orders: Orders that can run.
        least_bytes: A lower bound on the peak.
    """
    facts, clock = session.facts, session.clock
    starts = [order for order in orders if can_start(facts, order)]
    if not starts or not can_refine(facts):
        return None
    known = min(facts.evaluate(order)[0] for order in orders)
    if known <= least_bytes:
        return None
    refiner = Refiner(facts, least_bytes, session.seed, clock)
    if not refiner.has_choices:
        return None
    refiner.compile()
    steps = min(_STEPS_OF_EACH * refiner.size, _STEPS)
    num_runs = max(1, min(_RUNS, _MOST_WORK // (steps * work_per_step(facts))))
    steps = min(steps, _MOST_WORK // work_per_step(facts))
    start = min(starts, key=facts.evaluate)
    for run in range(num_runs + 1):
        is_last = run == num_runs
        begin = refiner.lean_order if is_last else start
        kind = _WARM_RUN if num_runs <= _FEW_RUNS and not is_last else _STRICT_RUN
        refiner.run(begin or start, steps, clock.end, kind, chains=CHAINS)
        if refiner.best_order is not None:  # it fits the bound
            break
    found = refiner.best_order or refiner.lean_order
    return found if found is not None and facts.evaluate(found)[0] < known else None
