"""`mincut`: the cheapest storages to keep at a price per byte, found as a minimum cut.

With a price per kept byte, "recompute time plus price of what is kept" is minimised exactly by
one minimum cut: a node per forward op (it runs again) and per storage (it is needed in the
backward); a storage that is needed is either kept, which costs its price, or its op runs again,
which costs its time and needs the op's reads. torch's own partitioner cuts a graph too, but lets
no recomputed value be recomputed from another one's inputs and has no price; here chains are
priced as a whole. Raising the price walks down the memory curve.
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
from ortools.graph.python import max_flow

from autockpt_solvers.methods.attempt import Attempt
from autockpt_solvers.methods.orders import Orders
from autockpt_solvers.schedule import with_frees

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.problem import Problem

_INFINITE = 1 << 58
_AGEING = 0.05
_PRICE_UNIT = 1 << 10  # capacities are times and prices in 1/1024 ns


class KeepNetwork:
    """The network of a graph; `kept(prices)` cuts it."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        graph = orders.graph
        self.may_run = [
            (orders.rerunnable[i] or not graph.is_required[i]) for i in range(graph.num_forward)
        ]
        self.num_ops = graph.num_forward
        self.source = self.num_ops + len(graph.storages)
        self.sink = self.source + 1
        # What must be kept or made again: storages of the forward pass that the backward may read.
        self.priced = [
            s
            for s, op in enumerate(graph.producer)
            if op < graph.num_forward and not graph.is_output[s] and graph.readers[s]
        ]
        arcs: list[tuple[int, int, int]] = []
        for op in range(self.num_ops):
            if self.may_run[op]:
                again = orders.runtime[op] if graph.is_required[op] else 0
                arcs.append((op, self.sink, again * _PRICE_UNIT))
                arcs.extend(
                    (op, self.num_ops + s, _INFINITE)
                    for s in orders.reads[op]
                    if not graph.is_output[s]
                )
        arcs.extend(
            (self.source, self.num_ops + s, _INFINITE)
            for s in self.priced
            if any(reader >= graph.num_forward for reader in graph.readers[s])
        )
        self.fixed = np.array(arcs, dtype=np.int64).reshape(-1, 3)
        heads = [graph.producer[s] if self._can_remake(s) else self.sink for s in self.priced]
        self.tails = np.array([self.num_ops + s for s in self.priced], dtype=np.int64)
        self.heads = np.array(heads, dtype=np.int64)

    def _can_remake(self, storage: int) -> bool:
        graph = self.orders.graph
        op = graph.producer[storage]
        region = self.orders.region[op]
        return self.may_run[op] and all(
            self.orders.region[r] == region for r in graph.readers[storage]
        )

    def kept(self, prices: Sequence[float]) -> set[int]:
        """The storages to keep when keeping storage `s` costs `prices[s]` ns."""
        flow = max_flow.SimpleMaxFlow()
        capacities = np.minimum(
            np.rint(np.array([prices[s] for s in self.priced]) * _PRICE_UNIT), _INFINITE
        ).astype(np.int64)
        flow.add_arcs_with_capacity(
            np.concatenate([self.fixed[:, 0], self.tails]),
            np.concatenate([self.fixed[:, 1], self.heads]),
            np.concatenate([self.fixed[:, 2], capacities]),
        )
        flow.solve(self.source, self.sink)
        side = set(flow.get_source_side_min_cut())
        return {
            s
            for s, head in zip(self.priced, self.heads.tolist(), strict=True)
            if self.num_ops + s in side and head not in side
        }


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
    orders = Orders(problem.graph)
    network = KeepNetwork(orders)
    weights = ageing_weights(orders)
    room = problem.room_bytes
    seen: dict[frozenset[int], tuple[int, int]] = {}
    low, high = 0.0, 1.0
    best: tuple[int, int, list[int]] | None = None
    leanest: tuple[int, list[int]] | None = None

    def fits(price: float) -> bool:
        nonlocal best, leanest
        kept = network.kept([price * weight for weight in weights])
        order = orders.just_in_time(kept)
        peak, recompute = orders.evaluate(order)
        seen[frozenset(kept)] = (peak, recompute)
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
    orders_found = [o for o in (best and best[2], leanest and leanest[1]) if o]
    return Attempt(schedules=tuple(with_frees(problem.graph, o) for o in orders_found))
