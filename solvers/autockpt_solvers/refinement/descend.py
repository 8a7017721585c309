"""Descent: how little memory a graph can be run in, found within a second or so.

The runs are those of `refine`, but strict: bytes over the lowest possible peak count from the
start. The number of steps depends on the graph alone, so the answer depends on the clock only if
the time of the whole search is over.
"""

from __future__ import annotations

import math
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

# Each run begins at the leanest plan of those before it. The first is long, and so is one that
# begins anew: runs that are too short do not get far from a plan of a heuristic. The others are
# half as long. Large graphs get fewer; if they get few, the first is warm, which depends less on
# where it begins.
_WARM_RUN, _STRICT_RUN = Start(temperature=1e-3, weight=0.1), Start(temperature=1e-4, weight=1.0)
_STEPS_OF_EACH, _STEPS = 25, 20_000  # of the first run: so many per decision, and at most so many
_SHORT_RUNS, _FEW_RUNS = 8, 2
# After so many runs in a row that find nothing leaner by this, it begins anew if what was known is
# leaner still, and ends otherwise.
_IDLE_RUNS, _LEANER = 3, 0.999
_MOST_WORK = 300_000_000  # in runs and reads, for the first run: about a second
_MOST_SHORT_WORK = 240_000_000  # for all the others


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
    wanted = min(_STEPS_OF_EACH * refiner.size, _STEPS)
    work = work_per_step(facts)
    num_short = max(1, min(_SHORT_RUNS, 2 * _MOST_SHORT_WORK // (wanted * work)))
    steps = min(wanted, _MOST_WORK // work)
    start = order = min(starts, key=facts.evaluate)
    leanest_bytes, num_idle = math.inf, 0
    for number in range(1 + num_short):
        is_from_start = order is start
        run = _WARM_RUN if number == 0 and num_short <= _FEW_RUNS else _STRICT_RUN
        refiner.run(order, steps if is_from_start else steps // 2, clock.end, run, chains=CHAINS)
        if refiner.best_order is not None:  # it fits the bound
            break
        order = refiner.lean_order or start
        peak_bytes = facts.evaluate(order)[0]
        num_idle = num_idle + 1 if peak_bytes > leanest_bytes * _LEANER else 0
        leanest_bytes = peak_bytes
        if num_idle == _IDLE_RUNS:
            if leanest_bytes < known:
                break
            order, num_idle = start, 0
    found = refiner.best_order or refiner.lean_order
    return found if found is not None and facts.evaluate(found)[0] < known else None
