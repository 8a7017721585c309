"""The graph as a chain of segments, and orders made from moves over them.

`revolve` and `chain` share it; their model is a chain. A segment is what lies between two narrow
places of the forward pass. A plan is a list of moves: `("run", k)` runs segment k's forward ops,
`("back", k)` its backward ops. Some earlier move makes whatever a move reads, so a plan that first
runs all segments is a valid order on any graph. If values skip over segments, it only takes more
memory than the model says. Graphs of several regions are no chains, because an op may run again
only in its own region's backward.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from autockpt_solvers.orders.cuts import crossing_bytes, narrow_places

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autockpt_solvers.orders.facts import GraphFacts

Move = tuple[str, int]


class SegmentChain:
    """A graph as a chain.

    Attributes:
        is_chain: Whether the graph is one: one region, forward and backward ops.
        ops: Per segment, its required forward ops in order.
        backward: Per segment, its backward ops.
        border_bytes: Per segment, the bytes that enter it.
        saved_bytes: Per segment, the bytes of its values that backward ops read.
        runtime_ns: Per segment, the time to recompute it.
        back_bytes: Per segment, the most bytes that its backward ops read, write and use at once,
            without what the segment saved.
    """

    def __init__(self, facts: GraphFacts, most: int) -> None:
        self.facts = facts
        graph = facts.graph
        order = facts.forward_order()
        self.is_chain = bool(order and facts.backward_ops) and len(set(facts.region)) == 1
        crossing = crossing_bytes(facts, order)
        cuts = narrow_places(crossing, reach=1)
        spacing = -(-(len(cuts) + 1) // most)
        cuts = [0, *cuts[spacing - 1 :: spacing], len(order)]
        self.ops = [order[a:b] for a, b in itertools.pairwise(cuts) if b > a]
        self.border_bytes = [crossing[a] for a, b in itertools.pairwise(cuts) if b > a]
        segment_of = {op: k for k, ops in enumerate(self.ops) for op in ops}
        self.backward: list[list[int]] = [[] for _ in self.ops]
        self.back_bytes = [0] * len(self.ops)
        current = len(self.ops) - 1
        for op in facts.backward_ops:
            made = [
                segment_of[p] for s in facts.reads[op] if (p := graph.producer[s]) in segment_of
            ]
            current = min(current, max(made, default=current))
            if current >= 0:
                self.backward[current].append(op)
                own = [
                    s
                    for s in (*facts.reads[op], *facts.writes[op])
                    if segment_of.get(graph.producer[s]) != current
                ]
                here = facts.working[op] + sum(facts.sizes[s] for s in own)
                self.back_bytes[current] = max(self.back_bytes[current], here)
        self.saved_bytes = [
            sum(
                facts.sizes[s]
                for op in ops
                for s in facts.writes[op]
                if any(r >= graph.num_forward for r in graph.readers[s])
            )
            for ops in self.ops
        ]
        self.runtime_ns = [
            sum(facts.runtime[op] for op in ops if facts.rerunnable[op]) for ops in self.ops
        ]

        self._again = [[op for op in ops if facts.rerunnable[op]] for ops in self.ops]
        self._backward_runs = self._with_what_they_wait_for()

    def order(self, moves: Iterable[Move]) -> list[int]:
        """The compute order of a plan that first runs all segments in order."""
        ran = bytearray(len(self.ops))
        order: list[int] = []
        end = 0
        for kind, segment in moves:
            if kind == "run":
                order += self._again[segment] if ran[segment] else self.ops[segment]
                ran[segment] = 1
            elif self._backward_runs[segment]:
                order += self._backward_runs[segment]
                end = len(order)
        # Segments before the last one that the backward needs have no backward.
        return order[:end]

    def _with_what_they_wait_for(self) -> list[list[int]]:
        """Per segment, its backward ops, and before each the ops that only the backward needs.

        Segments run backwards from the last to the first, so it is always the same op that waits.
        """
        ran = bytearray(len(self.facts.graph.ops))
        for ops in self.ops:
            for op in ops:
                ran[op] = 1
        runs: list[list[int]] = [[] for _ in self.ops]
        for segment in reversed(range(len(self.ops))):
            for op in self.backward[segment]:
                runs[segment] += [*self._missing(op, ran), op]
                ran[op] = 1
        return runs

    def _missing(self, op: int, ran: bytearray) -> list[int]:
        """Ops that only the backward needs and that `op` is the first to need."""
        graph = self.facts.graph
        found: set[int] = set()
        stack = [op]
        while stack:
            for storage in self.facts.reads[stack.pop()]:
                producer = graph.producer[storage]
                if not ran[producer] and producer not in found:
                    found.add(producer)
                    stack.append(producer)
        for producer in found:
            ran[producer] = 1
        return sorted(found)
