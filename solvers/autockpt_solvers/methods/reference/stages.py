"""The forward pass as a chain of stages, and orders made of running stages and turning them back.

Shared by `revolve` and `chain`, which think in chains only. A stage is what lies between two narrow
places of the forward pass. A plan is a list of moves: `("run", k)` runs stage k's forward ops,
`("back", k)` its backward ops. Whatever a move reads was made by some move before it, so every
plan that runs all stages first is a valid order on any graph; where values skip over stages, it
only takes more memory than the chain model says. Graphs of several regions are no chains: an op
may run again in its own region's backward only.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from autockpt_solvers.orders.cuts import crossing_bytes, narrow_places

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autockpt_solvers.orders.facts import Orders

Move = tuple[str, int]


class Stages:
    """A graph as a chain.

    Attributes:
        is_chain: Whether there is a chain to turn back: one region, forward and backward ops.
        ops: Per stage, its required forward ops in order.
        backward: Per stage, the backward ops that run when it is turned back.
        border_bytes: Per stage, the bytes that enter it.
        saved_bytes: Per stage, the bytes of its values that backward ops read.
        runtime_ns: Per stage, the time of running it again.
        back_bytes: Per stage, the most bytes that its backward ops read, write and use at once,
            without what the stage saved.
    """

    def __init__(self, orders: Orders, most: int) -> None:
        self.orders = orders
        graph = orders.graph
        order = orders.forward_order()
        self.is_chain = bool(order and orders.backward_ops) and len(set(orders.region)) == 1
        crossing = crossing_bytes(orders, order)
        cuts = narrow_places(crossing, reach=1)
        spacing = -(-(len(cuts) + 1) // most)
        cuts = [0, *cuts[spacing - 1 :: spacing], len(order)]
        self.ops = [order[a:b] for a, b in itertools.pairwise(cuts) if b > a]
        self.border_bytes = [crossing[a] for a, b in itertools.pairwise(cuts) if b > a]
        stage_of = {op: k for k, ops in enumerate(self.ops) for op in ops}
        self.backward: list[list[int]] = [[] for _ in self.ops]
        self.back_bytes = [0] * len(self.ops)
        current = len(self.ops) - 1
        for op in orders.backward_ops:
            made = [stage_of[p] for s in orders.reads[op] if (p := graph.producer[s]) in stage_of]
            current = min(current, max(made, default=current))
            if current >= 0:
                self.backward[current].append(op)
                own = [
                    s
                    for s in (*orders.reads[op], *orders.writes[op])
                    if stage_of.get(graph.producer[s]) != current
                ]
                here = orders.working[op] + sum(orders.sizes[s] for s in own)
                self.back_bytes[current] = max(self.back_bytes[current], here)
        self.saved_bytes = [
            sum(
                orders.sizes[s]
                for op in ops
                for s in orders.writes[op]
                if any(r >= graph.num_forward for r in graph.readers[s])
            )
            for ops in self.ops
        ]
        self.runtime_ns = [
            sum(orders.runtime[op] for op in ops if orders.rerunnable[op]) for ops in self.ops
        ]

        self._again = [[op for op in ops if orders.rerunnable[op]] for ops in self.ops]
        self._turns = self._with_what_they_wait_for()

    def order(self, moves: Iterable[Move]) -> list[int]:
        """The compute order of a plan that begins by running the stages in their order."""
        ran = bytearray(len(self.ops))
        order: list[int] = []
        end = 0
        for kind, stage in moves:
            if kind == "run":
                order += self._again[stage] if ran[stage] else self.ops[stage]
                ran[stage] = 1
            elif self._turns[stage]:
                order += self._turns[stage]
                end = len(order)
        # Stages before the last one that the backward needs have nothing to be turned back.
        return order[:end]

    def _with_what_they_wait_for(self) -> list[list[int]]:
        """Per stage, its backward ops, and before each the ops that only the backward needs.

        Stages are turned back from the last to the first, so it is always the same op that waits.
        """
        ran = bytearray(len(self.orders.graph.ops))
        for ops in self.ops:
            for op in ops:
                ran[op] = 1
        turns: list[list[int]] = [[] for _ in self.ops]
        for stage in reversed(range(len(self.ops))):
            for op in self.backward[stage]:
                turns[stage] += [*self._missing(op, ran), op]
                ran[op] = 1
        return turns

    def _missing(self, op: int, ran: bytearray) -> list[int]:
        """Ops that only the backward needs and that `op` is the first to wait for."""
        graph = self.orders.graph
        found: set[int] = set()
        stack = [op]
        while stack:
            for storage in self.orders.reads[stack.pop()]:
                producer = graph.producer[storage]
                if not ran[producer] and producer not in found:
                    found.add(producer)
                    stack.append(producer)
        for producer in found:
            ran[producer] = 1
        return sorted(found)
