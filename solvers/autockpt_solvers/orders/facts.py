"""Facts about a graph, and its compute orders: how to make them, and what they cost.

A compute order is the ops of a schedule in the order they run. Every method makes its plans as
compute orders and leaves the frees to `with_frees`.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy as np

    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.orders.tally import Tail, Tally


class GraphFacts:
    """Facts about a graph, and what makes and evaluates its compute orders.

    Attributes:
        rerunnable: Per op, whether it may run a second time: recomputable, and writing no output.
        forward_rank: Per forward op, its place in the forward pass. Ops that only the backward
            needs come right after the last op that they read from, wherever the graph has them.
        by_rank: The forward ops in that order.
    """

    def __init__(self, graph: ComputeGraph) -> None:
        self.graph = graph
        self.reads = [op.reads for op in graph.ops]
        self.writes = [op.writes for op in graph.ops]
        self.runtime = [op.runtime_ns for op in graph.ops]
        self.working = graph.working_bytes
        self.sizes = [storage.size_bytes for storage in graph.storages]
        self.region = [op.region for op in graph.ops]
        self.rerunnable = [
            op.recomputable and not any(graph.is_output[s] for s in op.writes) for op in graph.ops
        ]
        self.forward_rank = self._rank_forward()
        self.backward_ops = list(range(graph.num_forward, len(graph.ops)))
        forward = range(graph.num_forward)
        self._only_once = frozenset(op for op in forward if not self.rerunnable[op])
        self._of_forward = frozenset(s for op in forward for s in self.writes[op])
        self.by_rank = sorted(forward, key=self.forward_rank.__getitem__)

    def _rank_forward(self) -> list[int]:
        graph = self.graph
        anchor: list[tuple[int, int]] = []
        # After the last required op the backward has begun, and only its first region may run.
        required = [k for k in range(graph.num_forward) if graph.is_required[k]]
        last_required = max(required, default=-1)
        begun = self.region[graph.num_forward] if graph.num_forward < len(graph.ops) else 0
        for index in range(graph.num_forward):
            last = max((anchor[graph.producer[s]][0] for s in self.reads[index]), default=-1)
            # An op without inputs stays where it is: no earlier place is better.
            late = not graph.is_required[index] and last >= 0
            if late and self.region[last] == self.region[index]:
                anchor.append((last, index))
            elif last < 0 and index > last_required and self.region[index] != begun:
                anchor.append((last_required - 1, index))
            else:
                anchor.append((index, index))
        rank = [0] * graph.num_forward
        for place, index in enumerate(sorted(range(graph.num_forward), key=anchor.__getitem__)):
            rank[index] = place
        return rank

    def forward_order(self, also: Collection[int] = ()) -> list[int]:
        """The required forward ops and what the storages `also` need, in the order they run."""
        wanted = list(self.graph.is_required)
        stack = [self.graph.producer[s] for s in also]
        while stack:
            op = stack.pop()
            if not wanted[op]:
                wanted[op] = True
                stack.extend(self.graph.producer[s] for s in self.reads[op])
        return [op for op in self.by_rank if wanted[op]]

    def just_in_time(self, saved: Collection[int], *, nothing_twice: bool = False) -> list[int]:
        """The order that keeps `saved` and recomputes everything else when it is first read.

        What is recomputed stays in memory until its last use. What cannot be recomputed is kept
        too.

        Args:
            saved: Storages of the forward pass to keep; others are ignored.
            nothing_twice: Keep more, such that no op of the forward pass runs in the backward too.

        Returns:
            A valid compute order.
        """
        kept = set(self._of_forward.intersection(saved))
        while True:
            tail = self._backward_tail(kept)
            head = self.forward_order(kept)
            # An op that may run only once can be in both: keep what it writes instead.
            may_not = set(head) if nothing_twice else self._only_once.intersection(head)
            twice = may_not.intersection(tail)
            if not twice:
                return head + tail
            kept.update(s for op in twice for s in self.writes[op])

    def _backward_tail(self, kept: set[int]) -> list[int]:
        """The backward ops and, before each, what it misses; adds to `kept` what must be kept."""
        graph = self.graph
        made = (s for s in graph.outputs if graph.producer[s] < graph.num_forward)
        order, added = self._tail((*kept, *made))
        kept.update(added)
        return order

    def evaluate(self, order: Sequence[int]) -> tuple[int, int]:
        """Peak bytes and recompute time of an order that is known to be valid, frees included."""
        return self._tally(order)

    def live_bytes(self, order: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The bytes in use during each run of an order that is known to be valid."""
        return self._tally.live_bytes(order)

    @cached_property
    def _tail(self) -> Tail:
        from autockpt_solvers.orders.tally import Tail

        required = self.graph.is_required
        forward = range(self.graph.num_forward)
        return Tail(self.graph, (self.rerunnable[op] or not required[op] for op in forward))

    @cached_property
    def _tally(self) -> Tally:
        # Importing numba takes time, and only searches need it.
        from autockpt_solvers.orders.tally import Tally

        return Tally(self.graph)

    def lack(self, order: Sequence[int], budget: int) -> tuple[int, int]:
        """Bytes over the budget, then recompute time; the least pair is the best order."""
        peak, recompute = self.evaluate(order)
        return max(0, peak - budget), recompute

    def best(self, orders: Sequence[Sequence[int]], budget: int) -> list[Sequence[int]]:
        """Of valid orders, the cheapest that fits the budget, if any, and the leanest."""
        evaluated = [(*self.evaluate(order), k) for k, order in enumerate(orders)]
        fitting = [(recompute, peak, k) for peak, recompute, k in evaluated if peak <= budget]
        chosen = [min(entries)[2] for entries in (fitting, evaluated) if entries]
        return [orders[k] for k in dict.fromkeys(chosen)]

    def front(self, orders: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """Of valid orders, those that no other equals or beats in peak and recompute time."""
        evaluated = sorted((*self.evaluate(order), k) for k, order in enumerate(orders))
        chosen = []
        least = math.inf
        for _, recompute, k in evaluated:
            if recompute < least:
                chosen.append(k)
                least = recompute
        return [orders[k] for k in sorted(chosen)]

    def baseline(self) -> list[int]:
        """The order that runs nothing twice; what only the backward needs runs just before it."""
        required = self.graph.is_required
        saved = [s for s, op in enumerate(self.graph.producer) if required[op]]
        return self.just_in_time(saved, nothing_twice=True)
