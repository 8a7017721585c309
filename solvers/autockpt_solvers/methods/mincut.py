"""`mincut`: the cheapest storages to keep at a price per byte, found as a minimum cut.

"Recompute time plus a price per kept byte" is minimised exactly by a minimum cut (see `network`).
torch's own partitioner cuts a graph too, but has no price, and lets no recomputed value be made
from another one's inputs; here chains are priced as a whole. Raising the price walks down the
memory curve.
Guarantee: for every price, no other choice of kept storages has less time plus price; nothing
runs three times.
Complexity: one maximum flow per price, about 20 prices.
Weakness: it counts the bytes kept at the turn only, not what is made again and held during the
backward, so it stops short of low budgets.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.orders.facts import Orders, orders_of
from autockpt_solvers.orders.network import KeepNetwork
from autockpt_solvers.session import once

if TYPE_CHECKING:
    from autockpt_solvers.problem import Problem

_AGEING = 0.05


def keep_network(orders: Orders) -> KeepNetwork:
    """The network of a whole graph."""
    graph = orders.graph
    forward = range(graph.num_forward)
    priced = [
        s
        for s, op in enumerate(graph.producer)
        if op < graph.num_forward and not graph.is_output[s] and graph.readers[s]
    ]
    return KeepNetwork(
        again_ns=[
            # The first run of an op that only the backward needs is free.
            (orders.runtime[op] if graph.is_required[op] else 0)
            if orders.rerunnable[op] or not graph.is_required[op]
            else None
            for op in forward
        ],
        reads=[orders.reads[op] for op in forward],
        producer=graph.producer,
        priced=priced,
        needed={s for s in priced if graph.readers[s][-1] >= graph.num_forward},
        must_keep={
            s
            for s in priced
            if any(orders.region[r] != orders.region[graph.producer[s]] for r in graph.readers[s])
        },
    )


def ageing_weights(orders: Orders) -> list[float]:
    """Per storage, its bytes, a little dearer the longer it waits for its first backward reader.

    Identical layers would otherwise all give up the same storage at the same price; and a late
    layer may keep more than an early one, because its memory is free again sooner.
    """
    graph = orders.graph
    span = max(1, len(orders.backward_ops))
    weights = []
    for storage, size in enumerate(orders.sizes):
        wait = next((r for r in graph.readers[storage] if r >= graph.num_forward), len(graph.ops))
        weights.append(size * (1 + _AGEING * (wait - graph.num_forward) / span))
    return weights


def solve_mincut(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers the schedules met while bisecting for the lowest price that fits."""
    del seed
    deadline = time.monotonic() + time_limit_s
    orders = orders_of(problem.graph)
    network = once("network", lambda: keep_network(orders))
    weights = once("weights", lambda: np.array(ageing_weights(orders)))
    room = problem.room_bytes
    # Per price, the plan with its peak and recompute time: searches in other rooms ask for many
    # of them again.
    plans: dict[float, tuple[int, int, list[int]]] = once("plans at prices", dict)
    low, high = 0.0, 1.0
    best: tuple[int, int, list[int]] | None = None
    leanest: tuple[int, list[int]] | None = None

    def fits(price: float) -> bool:
        nonlocal best, leanest
        if price not in plans:
            kept = network.kept(price * weights)
            order = orders.just_in_time(kept)
            plans[price] = (*orders.evaluate(order), order)
        peak, recompute, order = plans[price]
        if leanest is None or peak < leanest[0]:
            leanest = (peak, order)
        if peak <= room and (best is None or recompute < best[0]):
            best = (recompute, peak, order)
        return peak <= room

    # Prices are in ns per byte; 1 ns per byte is a slow op already. Double until it fits.
    price = 1 / 1024
    while price < 1 << 20 and not fits(price) and time.monotonic() < deadline:
        low, price = price, price * 2
    high = price
    for _ in range(14):
        if best is None or time.monotonic() > deadline:
            break
        middle = (low + high) / 2
        if fits(middle):
            high = middle
        else:
            low = middle
    found = [o for o in (best and best[2], leanest and leanest[1]) if o]
    return Attempt(orders=tuple(found))
