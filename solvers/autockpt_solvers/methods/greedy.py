"""`greedy`: drop the kept storage that costs the least time per byte until the plan fits.

It starts with everything kept that the backward reads. To drop a storage, its op runs again, and
with it whatever has to run before, from what is still kept. The cost is the time of what would run
that does not run again yet. Once the plan fits, dropped storages are kept again, those that
cost the most time per byte first, as long as the plan still fits.
Guarantee: none; no forward op runs more than twice.
Complexity: one heap over the storages, O(n log n) closures, and about 200 evaluations.
Weakness: it looks at one storage at a time, so it never trades several kept storages for one
input of theirs (`mincut` does). It counts only the bytes kept at the end of the forward pass.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt

if TYPE_CHECKING:
    from autockpt_solvers.clock import Clock
    from autockpt_solvers.orders.facts import GraphFacts
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import Session

_MAX_EVALUATIONS = 200  # of plans in which a dropped storage is kept again
_MAX_OPS_EVALUATED = 300_000  # the same in ops, so that large graphs take no longer
_NUM_TRIED = 40  # plans on the way down that are evaluated first, evenly spaced


class _Dropper:
    """What is kept, what runs again, and the price of dropping one more storage."""

    def __init__(self, facts: GraphFacts) -> None:
        self.facts = facts
        graph = facts.graph
        self.kept = {
            s
            for s, op in enumerate(graph.producer)
            if graph.is_required[op]
            and not graph.is_output[s]
            and any(r >= graph.num_forward for r in graph.readers[s])
        }
        # What runs in the backward from the start: ops that only the backward needs.
        self.again = {
            op
            for op in range(graph.num_forward)
            if graph.is_needed[op] and not graph.is_required[op]
        }

    def closure(self, storage: int) -> tuple[list[int], list[int]] | None:
        """What runs again if `storage` is dropped, and what must be kept then.

        None if it cannot be dropped.
        """
        facts, graph = self.facts, self.facts.graph
        op = graph.producer[storage]
        if not facts.rerunnable[op]:
            return None
        if any(facts.region[r] != facts.region[op] for r in graph.readers[storage]):
            return None
        ops: list[int] = []
        also: list[int] = []
        stack, seen = [storage], {storage}
        while stack:
            current = stack.pop()
            op = graph.producer[current]
            if op in self.again or op in ops:
                continue
            if current != storage and (not facts.rerunnable[op] or current in self.kept):
                also.append(current)
                continue
            ops.append(op)
            for read in facts.reads[op]:
                if read not in seen and read not in self.kept and not graph.is_output[read]:
                    seen.add(read)
                    stack.append(read)
        return ops, [s for s in also if s not in self.kept]

    def price(self, storage: int) -> float | None:
        """Time per byte freed; None if dropping it frees nothing."""
        found = self.closure(storage)
        if found is None:
            return None
        ops, also = found
        freed = self.facts.sizes[storage] - sum(self.facts.sizes[s] for s in also)
        if freed <= 0:
            return None
        return sum(self.facts.runtime[op] for op in ops) / freed

    def drop(self, storage: int) -> None:
        """Drop it."""
        found = self.closure(storage)
        assert found is not None
        self.kept.discard(storage)
        self.again.update(found[0])
        self.kept.update(found[1])


class DropCurve:
    """Every plan on the way from keeping all to keeping as little as possible.

    Attributes:
        kept: What the first plan keeps.
        drops: Per further plan, the storage that it drops, and those that it keeps instead.
    """

    def __init__(self, facts: GraphFacts, clock: Clock, deadline: float) -> None:
        self.facts = facts
        self.drops: list[tuple[int, tuple[int, ...]]] = []
        self._peaks: dict[int, int] = {}
        dropper = _Dropper(facts)
        self.kept = frozenset(dropper.kept)
        heap: list[tuple[float, int]] = []
        for storage in sorted(dropper.kept):
            if clock.now() > deadline:
                break
            price = dropper.price(storage)
            if price is not None:
                heapq.heappush(heap, (price, storage))
        while heap and clock.now() < deadline:
            price, storage = heapq.heappop(heap)
            now = dropper.price(storage)
            if now is None:
                continue
            if now > price * (1 + 1e-9) + 1e-12:
                heapq.heappush(heap, (now, storage))
                continue
            before = set(dropper.kept)
            dropper.drop(storage)
            self.drops.append((storage, tuple(sorted(dropper.kept - before))))

    def kept_after(self, count: int) -> set[int]:
        """What is kept after so many drops."""
        kept = set(self.kept)
        for dropped, instead in self.drops[:count]:
            kept.discard(dropped)
            kept.update(instead)
        return kept

    def order(self, count: int) -> list[int]:
        """The plan after so many drops."""
        return self.facts.just_in_time(self.kept_after(count))

    def peak(self, count: int) -> int:
        """Its peak."""
        if count not in self._peaks:
            self._peaks[count] = self.facts.evaluate(self.order(count))[0]
        return self._peaks[count]


def solve_greedy(problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
    """Offer the first plan on the way down that fits, improved, and the leanest one found."""
    clock = session.clock
    deadline = clock.until(time_limit_s)
    if session.drops is None:
        session.drops = DropCurve(session.facts, clock, clock.until(time_limit_s / 2))
    curve, budget = session.drops, problem.available_bytes
    count = 1 + len(curve.drops)
    stride = max(1, count // _NUM_TRIED)
    tried = range(0, count, stride)
    if clock.now() > deadline:
        tried = range(count - 1, count)
    first = next((k for k in tried if curve.peak(k) <= budget), None)
    leanest = min(tried, key=lambda k: (curve.peak(k), k))
    if first is None:
        return Attempt(orders=(curve.order(leanest),))
    while first > 0 and clock.now() <= deadline and curve.peak(first - 1) <= budget:
        first -= 1
    kept = _keep_again(curve, first, budget, clock, deadline)
    return Attempt(orders=(session.facts.just_in_time(kept), curve.order(leanest)))


def _keep_again(
    curve: DropCurve, count: int, budget: int, clock: Clock, deadline: float
) -> set[int]:
    """Keep dropped storages again, the last dropped first, while the plan still fits."""
    facts, kept = curve.facts, curve.kept_after(count)
    cost = facts.evaluate(facts.just_in_time(kept))[1]
    most = min(_MAX_EVALUATIONS, _MAX_OPS_EVALUATED // len(facts.reads))
    for storage, _ in curve.drops[:count][::-1][:most]:
        if clock.now() > deadline:
            break
        kept.add(storage)
        peak, recompute = facts.evaluate(facts.just_in_time(kept))
        if peak <= budget and recompute < cost:
            cost = recompute
        else:
            kept.discard(storage)
    return kept
