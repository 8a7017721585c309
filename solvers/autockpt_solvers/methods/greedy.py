"""`greedy`: drop the kept storage that costs least time per byte freed until the plan fits.

Starts with everything that the backward reads kept. A storage is dropped by running its op again,
and with it whatever has to run before from what is still kept; the cost is what would run that
does not run yet. When the plan fits, dropped storages are kept again, dearest per byte first,
where there is room.
Guarantee: none; every forward op runs at most twice.
Complexity: one heap over the storages, O(n log n) closures, and about 200 replays.
Weakness: it looks at one storage at a time, so it never trades several kept storages for one
input of theirs (`mincut` does), and it drops for the turn's bytes only.
"""

from __future__ import annotations

import heapq
import time
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.orders.facts import Orders, orders_of
from autockpt_solvers.session import once

if TYPE_CHECKING:
    from autockpt_solvers.problem import Problem

_MAX_REPLAYS = 200
_EFFORT = 300_000  # ops that the replays look at when storages are kept again


class _Dropper:
    """What is kept and what runs again, and the price of dropping one storage more."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        graph = orders.graph
        self.kept = {
            s
            for s, op in enumerate(graph.producer)
            if graph.is_required[op]
            and not graph.is_output[s]
            and any(r >= graph.num_forward for r in graph.readers[s])
        }
        # What is made again from the start: ops that only the backward needs.
        self.again = {
            op
            for op in range(graph.num_forward)
            if graph.is_needed[op] and not graph.is_required[op]
        }

    def closure(self, storage: int) -> tuple[list[int], list[int]] | None:
        """What runs again when `storage` is dropped, and what must be kept then; None: never."""
        orders, graph = self.orders, self.orders.graph
        op = graph.producer[storage]
        if not orders.rerunnable[op]:
            return None
        if any(orders.region[r] != orders.region[op] for r in graph.readers[storage]):
            return None
        ops: list[int] = []
        also: list[int] = []
        stack, seen = [storage], {storage}
        while stack:
            current = stack.pop()
            op = graph.producer[current]
            if op in self.again or op in ops:
                continue
            if current != storage and (not orders.rerunnable[op] or current in self.kept):
                also.append(current)
                continue
            ops.append(op)
            for read in orders.reads[op]:
                if read not in seen and read not in self.kept and not graph.is_output[read]:
                    seen.add(read)
                    stack.append(read)
        return ops, [s for s in also if s not in self.kept]

    def price(self, storage: int) -> float | None:
        """Time per byte freed; None when dropping frees nothing."""
        found = self.closure(storage)
        if found is None:
            return None
        ops, also = found
        freed = self.orders.sizes[storage] - sum(self.orders.sizes[s] for s in also)
        if freed <= 0:
            return None
        return sum(self.orders.runtime[op] for op in ops) / freed

    def drop(self, storage: int) -> None:
        """Drops it."""
        found = self.closure(storage)
        assert found is not None
        self.kept.discard(storage)
        self.again.update(found[0])
        self.kept.update(found[1])


def drop_order(orders: Orders, deadline: float) -> list[frozenset[int] | tuple[int, ...]]:
    """Runs the heap dry; gives the first kept set, then per drop what went and what came."""
    dropper = _Dropper(orders)
    heap: list[tuple[float, int]] = []
    for storage in sorted(dropper.kept):
        price = dropper.price(storage)
        if price is not None:
            heapq.heappush(heap, (price, storage))
    steps: list[frozenset[int] | tuple[int, ...]] = [frozenset(dropper.kept)]
    while heap and time.monotonic() < deadline:
        price, storage = heapq.heappop(heap)
        now = dropper.price(storage)
        if now is None:
            continue
        if now > price * (1 + 1e-9) + 1e-12:
            heapq.heappush(heap, (now, storage))
            continue
        before = set(dropper.kept)
        dropper.drop(storage)
        steps.append((storage, *sorted(dropper.kept - before)))
    return steps


def _kept_after(steps: list[frozenset[int] | tuple[int, ...]], count: int) -> set[int]:
    kept = set(steps[0])
    for dropped, *also in steps[1 : count + 1]:
        kept.discard(dropped)
        kept.update(also)
    return kept


def solve_greedy(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers the first fitting plan on the way down, improved, and the leanest one met."""
    del seed
    deadline = time.monotonic() + time_limit_s
    orders = orders_of(problem.graph)
    steps = once("drops", lambda: drop_order(orders, time.monotonic() + time_limit_s / 2))
    peaks: dict[int, int] = once("peaks of drops", dict)

    def peak(count: int) -> int:
        if count not in peaks:
            peaks[count] = orders.evaluate(orders.just_in_time(_kept_after(steps, count)))[0]
        return peaks[count]

    stride = max(1, len(steps) // 40)
    first = next((k for k in range(0, len(steps), stride) if peak(k) <= problem.room_bytes), None)
    leanest = min(range(0, len(steps), stride), key=lambda k: (peak(k), k))
    if first is None:
        return Attempt(orders=(orders.just_in_time(_kept_after(steps, leanest)),))
    while first > 0 and peak(first - 1) <= problem.room_bytes:
        first -= 1
    kept = _give_back(orders, steps, first, problem.room_bytes, deadline)
    found = [orders.just_in_time(kept), orders.just_in_time(_kept_after(steps, leanest))]
    return Attempt(orders=tuple(found))


def _give_back(
    orders: Orders,
    steps: list[frozenset[int] | tuple[int, ...]],
    count: int,
    room: int,
    deadline: float,
) -> set[int]:
    """Keeps again what was dropped, latest (dearest) first, where the plan still fits."""
    kept = _kept_after(steps, count)
    cost = orders.evaluate(orders.just_in_time(kept))[1]
    num_replays = min(_MAX_REPLAYS, _EFFORT // len(orders.reads))
    for step in list(reversed(steps[1 : count + 1]))[:num_replays]:
        if time.monotonic() > deadline:
            break
        kept.add(step_storage := next(iter(step)))
        peak, recompute = orders.evaluate(orders.just_in_time(kept))
        if peak <= room and recompute < cost:
            cost = recompute
        else:
            kept.discard(step_storage)
    return kept
