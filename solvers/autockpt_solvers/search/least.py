"""The least budget of a graph: one figure, whatever budget was asked for.

It is the lowest peak of the plans of the heuristics and of a short descent from them. On small
graphs `auto` anneals from there, because the descent recomputes nothing before the backward begins.
Nothing in it depends on the clock or on a budget. So every solve of a graph knows the same figure,
and takes it as its lowest level: it finds a plan from there on, and none below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.bounds.least import least_peak_bytes
from autockpt_solvers.bounds.peak import lower_bound_bytes
from autockpt_solvers.problem import Problem
from autockpt_solvers.search.backward import find_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.methods.registry import Record
    from autockpt_solvers.orders.reordered import Moved
    from autockpt_solvers.session import Session

_SHARE_OF_ORDER = 0.2  # of the time left, at most. Zoo graphs need a few percent of a minute


def reordered(session: Session, *, may_reorder: bool) -> tuple[Moved | None, Session]:
    """The graph in a better order of the backward, if there is one, and the session to search in.

    Args:
        session: The session of the graph; keeps the answer.
        may_reorder: Whether to look for another order.
    """
    if not may_reorder:
        return None, session
    if session.reordered is None:
        clock = session.clock
        clock.begin("ordering the backward pass")
        left = clock.seconds_left(clock.end, share=_SHARE_OF_ORDER)
        moved = find_order(session.graph, time_limit_s=left, clock=clock)
        there = session if moved is None else session.of_same_search(moved.graph)
        session.reordered = moved, there
    return session.reordered


def least_plan(session: Session, record: Record) -> Sequence[int]:
    """The plan with the lowest peak that a method knows before it searches, found once.

    Args:
        session: The session of the graph.
        record: The method; it descends.
    """
    moved, there = reordered(session, may_reorder=record.may_reorder)
    found = [_descended(there, anneals=record.anneals)]
    if moved is not None:
        found = [moved.originally(found[0])]
        found += _offered(session)
    return min(found, key=session.facts.evaluate)


def _descended(session: Session, *, anneals: bool) -> Sequence[int]:
    """The leanest plan for the backward as the session's graph orders it; kept in the session."""
    if session.least is None:
        from autockpt_solvers.refinement.descend import descend

        session.clock.begin("searching for the smallest budget")
        known = [session.facts.baseline(), *_offered(session)]
        least_bytes = least_peak_bytes(session.graph)
        lower = descend(session, known, least_bytes)
        known += [] if lower is None else [lower]
        session.least = min(known, key=session.facts.evaluate)
        if anneals and session.facts.evaluate(session.least)[0] > least_bytes:
            session.least = _annealed(session, session.least, least_bytes)
    return session.least


def _annealed(session: Session, start: Sequence[int], least_bytes: int) -> Sequence[int]:
    """The leanest plan that `local` finds from another plan, if the graph is small."""
    from autockpt_solvers.methods.local import EFFORT_FROM_A_PLAN, MOST_OPS, anneal_from

    if len(session.graph.ops) > MOST_OPS:
        return start
    floor = Problem(graph=session.graph, budget_bytes=least_bytes)
    left = session.clock.seconds_left(session.clock.end)
    found = anneal_from(floor, session, start, time_limit_s=left, effort=EFFORT_FROM_A_PLAN)
    return min((start, *found.orders), key=session.facts.evaluate)


def _offered(session: Session) -> tuple[Sequence[int], ...]:
    """The plans that the heuristics offer for the least possible peak."""
    from autockpt_solvers.methods.heuristics import solve_heuristics

    floor = Problem(graph=session.graph, budget_bytes=lower_bound_bytes(session.graph))
    left = session.clock.seconds_left(session.clock.end)
    return solve_heuristics(floor, session, time_limit_s=left).offered
