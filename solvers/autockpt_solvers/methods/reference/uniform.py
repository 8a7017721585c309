"""`uniform` and `sqrt`: keep only what crosses some cuts of the forward pass, make the rest again.

Also known as periodic or segment checkpointing. Chen et al., "Training Deep Nets with Sublinear
Memory Cost" (2016): with n equal layers and sqrt(n) segments, memory falls to O(sqrt(n)) for one
extra forward pass. The cuts are the narrow places of the forward pass; `uniform` tries every
spacing between cuts and keeps the cheapest that fits, `sqrt` takes the square root of their
number as spacing.
Guarantee: every forward op runs at most twice.
Complexity: linear per spacing.
Weakness: all or nothing within a segment, cheap and expensive ops alike, and every segment is
treated like any other whatever its size.
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
from autockpt_solvers.orders.facts import orders_of

if TYPE_CHECKING:
    from autockpt_solvers.problem import Problem


def spacings(num_cuts: int) -> list[int]:
    """Spacings to try: all small ones, then growing by a quarter."""
    tried = []
    spacing = 1
    while spacing <= num_cuts:
        tried.append(spacing)
        spacing = max(spacing + 1, spacing * 5 // 4)
    return tried


class _Cutter:
    def __init__(self, problem: Problem) -> None:
        self.orders = orders_of(problem.graph)
        self.forward = self.orders.forward_order()
        self.spans = forward_spans(self.orders, self.forward)
        self.cuts = narrow_places(crossing_bytes(self.orders, self.forward))

    def order(self, spacing: int) -> list[int]:
        """Keeps what crosses every `spacing`-th cut."""
        kept = crossing_storages(self.spans, self.cuts[spacing - 1 :: spacing])
        return self.orders.just_in_time(kept)


def solve_uniform(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers the spacings of the cuts that no other one beats in both peak and time."""
    del time_limit_s, seed
    cutter = _Cutter(problem)
    orders = [cutter.order(spacing) for spacing in spacings(len(cutter.cuts))]
    best: list[list[int]] = []
    least: int | None = None
    for (_, peak), order in sorted(
        ((cutter.orders.evaluate(order)[::-1], order) for order in orders), key=lambda e: e[0]
    ):
        if least is None or peak < least:
            least = peak
            best.append(order)
    return Attempt(orders=tuple(best))


def solve_sqrt(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers Chen's schedule: about as many segments as there are cuts in each."""
    del time_limit_s, seed
    cutter = _Cutter(problem)
    spacing = max(1, math.isqrt(len(cutter.cuts)))
    return Attempt(orders=(cutter.order(spacing),))
