"""Compute orders: the forward pass, recomputation just in time, and a quick evaluation of both.

Every method builds its answer as a compute order and leaves the frees to `with_frees`.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.methods.tally import Tally


class Orders:
    """Facts about a graph that building and judging many orders needs again and again.

    Attributes:
        rerunnable: Per op, whether it may run a second time: recomputable, and writing no output.
        forward_rank: Per forward op, its place in the forward pass. Ops that only the backward
            needs stand right behind the last op they read from, wherever the graph lists them.
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
        self._by_rank = sorted(range(graph.num_forward), key=self.forward_rank.__getitem__)
        self._forward_reads = [
            [s for s in self.reads[op] if graph.producer[s] < graph.num_forward]
            for op in self.backward_ops
        ]

    def _rank_forward(self) -> list[int]:
        graph = self.graph
        anchor: list[tuple[int, int]] = []
        for index in range(graph.num_forward):
            last = max((anchor[graph.producer[s]][0] for s in self.reads[index]), default=-1)
            # An op without inputs stays where it is: there is no earlier place to prefer.
            late = not graph.is_required[index] and last >= 0
            if late and self.region[last] == self.region[index]:
                anchor.append((last, index))
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
        return [op for op in self._by_rank if wanted[op]]

    def just_in_time(self, saved: Collection[int], *, once: bool = False) -> list[int]:
        """The order that keeps `saved` and makes everything else again when it is first read.

        What is made again is kept until its last use. What cannot be made again is kept too.

        Args:
            saved: Storages of the forward pass to keep; any others may be named and are ignored.
            once: Keep more, such that no op runs in the forward pass and again in the backward.

        Returns:
            A valid compute order.
        """
        kept = {s for s in saved if self.graph.producer[s] < self.graph.num_forward}
        while True:
            tail = self._backward_tail(kept)
            head = self.forward_order(kept)
            # An op that may run once only can be in both: what it writes must be kept instead.
            twice = {op for op in tail if once or not self.rerunnable[op]}.intersection(head)
            if not twice:
                return head + tail
            kept.update(s for op in twice for s in self.writes[op])

    def _backward_tail(self, kept: set[int]) -> list[int]:
        """The backward ops and, before each, what it misses; adds to `kept` what must be."""
        at_hand = bytearray(len(self.sizes))
        for storage in kept:
            at_hand[storage] = 1
        for storage in self.graph.outputs:
            at_hand[storage] = self.graph.producer[storage] < self.graph.num_forward
        tail: list[int] = []
        for index, reads in zip(self.backward_ops, self._forward_reads, strict=True):
            missing = [s for s in reads if not at_hand[s]]
            if missing:
                tail.extend(self._make_again(missing, self.region[index], at_hand, kept))
            tail.append(index)
        return tail

    def _make_again(
        self, missing: list[int], region: int, at_hand: bytearray, kept: set[int]
    ) -> list[int]:
        graph = self.graph
        ops: set[int] = set()
        while missing:
            storage = missing.pop()
            op = graph.producer[storage]
            if at_hand[storage] or op in ops:
                continue
            may_run = self.rerunnable[op] or not graph.is_required[op]
            if may_run and self.region[op] == region:
                ops.add(op)
                missing.extend(s for s in self.reads[op] if not at_hand[s])
            else:
                kept.add(storage)
                at_hand[storage] = 1
        for op in ops:
            for storage in self.writes[op]:
                at_hand[storage] = 1
        return sorted(ops)

    def evaluate(self, order: Sequence[int]) -> tuple[int, int]:
        """Peak bytes and recompute time of an order that is known to be valid, frees included."""
        return self._tally(order)

    @cached_property
    def _tally(self) -> Tally:
        # Only what searches needs numba, which takes its time to import.
        from autockpt_solvers.methods.tally import Tally

        return Tally(self.graph)

    def lack(self, order: Sequence[int], room: int) -> tuple[int, int]:
        """What an order lacks: bytes over `room` first, recompute time second; least is best."""
        peak, recompute = self.evaluate(order)
        return max(0, peak - room), recompute

    def best(self, orders: Sequence[Sequence[int]], room: int) -> list[Sequence[int]]:
        """Of valid orders, the cheapest that fits `room` bytes, if any, and the leanest."""
        judged = [(*self.evaluate(order), k) for k, order in enumerate(orders)]
        fitting = [(recompute, peak, k) for peak, recompute, k in judged if peak <= room]
        chosen = [min(entries)[2] for entries in (fitting, judged) if entries]
        return [orders[k] for k in dict.fromkeys(chosen)]

    def baseline(self) -> list[int]:
        """The order in which nothing runs twice; what only the backward needs is made for it."""
        required = self.graph.is_required
        saved = [s for s, op in enumerate(self.graph.producer) if required[op]]
        return self.just_in_time(saved, once=True)
