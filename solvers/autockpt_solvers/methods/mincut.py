"""`mincut`: the cheapest storages to keep at a price per byte, found as a minimum cut.

A minimum cut minimises "recompute time plus a price per kept byte" exactly (see `network`). torch's
own partitioner cuts a graph too, but it has no price, and it never recomputes a value from another
recomputed value. Here whole chains are priced. Raising the price walks down the memory curve.
Guarantee: at every price, no other choice of kept storages has less time plus price; nothing runs
three times.
Complexity: one maximum flow per price, about 20 prices.
Weakness: it counts only the bytes kept at the end of the forward pass, not what is recomputed and
kept during the backward, so it stops short of low budgets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.orders.network import KeepNetwork

if TYPE_CHECKING:
    from autockpt_solvers.orders.facts import GraphFacts
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import Session

# How much more a byte costs that waits for the whole backward, as a share: small, so that it only
# decides between equal layers.
_AGEING = 0.05
# Prices are in ns per byte; 1 ns per byte is a slow op already.
_LOWEST_PRICE, _HIGHEST_PRICE = 1 / 1024, 1 << 20
_BISECTIONS = 14  # of the range between a price that fits and half of it


def keep_network(facts: GraphFacts) -> KeepNetwork:
    """The network of the whole graph."""
    graph = facts.graph
    forward = range(graph.num_forward)
    priced = [
        s
        for s, op in enumerate(graph.producer)
        if op < graph.num_forward and not graph.is_output[s] and graph.readers[s]
    ]
    return KeepNetwork(
        again_ns=[
            # The first run of an op that only the backward needs is free.
            (facts.runtime[op] if graph.is_required[op] else 0)
            if facts.rerunnable[op] or not graph.is_required[op]
            else None
            for op in forward
        ],
        reads=[facts.reads[op] for op in forward],
        producer=graph.producer,
        priced=priced,
        needed={s for s in priced if graph.readers[s][-1] >= graph.num_forward},
        must_keep={
            s
            for s in priced
            if any(facts.region[r] != facts.region[graph.producer[s]] for r in graph.readers[s])
        },
    )


def ageing_weights(facts: GraphFacts) -> list[float]:
    """Per storage, its bytes, and a little more the longer it waits for its first backward reader.

    Otherwise identical layers would all drop the same storage at the same price. A late layer may
    keep more than an early one, because its memory is free again sooner.
    """
    graph = facts.graph
    span = max(1, len(facts.backward_ops))
    weights = []
    for storage, size in enumerate(facts.sizes):
        wait = next((r for r in graph.readers[storage] if r >= graph.num_forward), len(graph.ops))
        weights.append(size * (1 + _AGEING * (wait - graph.num_forward) / span))
    return weights


class Priced(NamedTuple):
    """The plan at a price."""

    peak_bytes: int
    recompute_ns: int
    order: list[int]


class PriceCurve:
    """The plans of a graph by price, each made once."""

    def __init__(self, facts: GraphFacts) -> None:
        self.facts = facts
        self._network = keep_network(facts)
        self._weights = np.array(ageing_weights(facts))
        self._plans: dict[float, Priced] = {}

    def at(self, price: float) -> Priced:
        """The plan at a price in ns per byte."""
        if price not in self._plans:
            order = self.facts.just_in_time(self._network.kept(price * self._weights))
            self._plans[price] = Priced(*self.facts.evaluate(order), order)
        return self._plans[price]


def solve_mincut(problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
    """Offer the plans met while bisecting for the lowest price at which one fits."""
    clock = session.clock
    deadline = clock.until(time_limit_s)
    if session.prices is None:
        session.prices = PriceCurve(session.facts)
    curve, budget = session.prices, problem.available_bytes
    found = []

    def fits(price: float) -> bool:
        found.append(curve.at(price))
        return found[-1].peak_bytes <= budget

    low, high = 0.0, _LOWEST_PRICE
    while high < _HIGHEST_PRICE and not fits(high) and clock.now() < deadline:
        low, high = high, high * 2
    is_met = any(plan.peak_bytes <= budget for plan in found)
    for _ in range(_BISECTIONS if is_met else 0):
        if clock.now() > deadline:
            break
        middle = (low + high) / 2
        if fits(middle):
            high = middle
        else:
            low = middle
    return Attempt(orders=tuple(session.facts.best([plan.order for plan in found], budget)))
