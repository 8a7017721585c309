"""`uniform` and `sqrt`: keep only what crosses some cuts of the forward pass, recompute the rest.

Also known as periodic or segment checkpointing. Chen et al., "Training Deep Nets with Sublinear
Memory Cost" (2016): with n equal layers and sqrt(n) segments, memory falls to O(sqrt(n)) for one
extra forward pass. The cuts are the narrow places of the forward pass. `uniform` tries every
spacing between cuts and keeps the cheapest that fits. `sqrt` uses the square root of the number of
cuts as spacing.
Guarantee: no forward op runs more than twice.
Complexity: linear per spacing.
Weakness: all or nothing within a segment, cheap and expensive ops alike, and every segment is
treated like any other, whatever its size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.orders.cuts import (
    crossing_bytes,
    crossing_storages,
    forward_spans,
    narrow_places,
)

if TYPE_CHECKING:
    from autockpt_solvers.orders.facts import GraphFacts
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import Session


def spacings(num_cuts: int) -> list[int]:
    """The spacings to try: all small ones, then each a quarter larger than the last."""
    tried = []
    spacing = 1
    while spacing <= num_cuts:
        tried.append(spacing)
        spacing = max(spacing + 1, spacing * 5 // 4)
    return tried


class _Checkpoints:
    """The narrow places of a forward pass, and plans that keep what crosses some of them."""

    def __init__(self, facts: GraphFacts) -> None:
        self.facts = facts
        self.forward = facts.forward_order()
        self.spans = forward_spans(facts, self.forward)
        self.cuts = narrow_places(crossing_bytes(facts, self.forward))

    def order(self, spacing: int) -> list[int]:
        """The plan that keeps what crosses every `spacing`-th cut."""
        kept = crossing_storages(self.spans, self.cuts[spacing - 1 :: spacing])
        return self.facts.just_in_time(kept)


def solve_uniform(problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
    """Offer the plans of all spacings that no other one beats in both peak and time."""
    del problem, time_limit_s
    checkpoints = _Checkpoints(session.facts)
    orders = [checkpoints.order(spacing) for spacing in spacings(len(checkpoints.cuts))]
    return Attempt(orders=tuple(session.facts.front(orders)))


def solve_sqrt(problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
    """Offer Chen's plan: about as many segments as there are cuts in each."""
    del problem, time_limit_s
    checkpoints = _Checkpoints(session.facts)
    spacing = max(1, math.isqrt(len(checkpoints.cuts)))
    return Attempt(orders=(checkpoints.order(spacing),))
