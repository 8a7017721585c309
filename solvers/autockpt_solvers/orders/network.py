"""The network whose minimum cut chooses what to keep at given prices.

It has a node per forward op (the op runs again) and per storage (the backward needs it). A storage
that is needed is either kept, which costs its price, or its op runs again, which costs its time and
needs the op's reads. One maximum flow minimises recompute time plus price exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ortools.graph.python import max_flow

from autockpt_solvers.orders.capacities import PER_NS, UNCUT

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class KeepNetwork:
    """The network of a graph or of a window."""

    def __init__(
        self,
        *,
        again_ns: Sequence[int | None],
        reads: Sequence[Sequence[int]],
        producer: Sequence[int],
        priced: Sequence[int],
        needed: Collection[int],
        must_keep: Collection[int],
    ) -> None:
        """Build the part that no price changes.

        Args:
            again_ns: Per op, its time in the backward; None if it may not run there.
            reads: Per op, the storages that it reads; those not priced are in memory anyway.
            producer: Per storage, its op.
            priced: Storages that cost something to keep.
            needed: Storages that backward ops read.
            must_keep: Storages that must be kept even if their op runs again.
        """
        self.num_ops = len(again_ns)
        self.source = self.num_ops + len(producer)
        self.sink = self.source + 1
        self.priced = np.array(priced, dtype=np.int64)
        known = set(priced)
        arcs: list[tuple[int, int, int]] = []
        for op, again in enumerate(again_ns):
            if again is not None:
                arcs.append((op, self.sink, again * PER_NS))
                arcs.extend((op, self.num_ops + s, UNCUT) for s in reads[op] if s in known)
        arcs.extend((self.source, self.num_ops + s, UNCUT) for s in priced if s in needed)
        self.fixed = np.array(arcs, dtype=np.int64).reshape(-1, 3)
        keep = set(must_keep)
        self.heads = np.array(
            [
                self.sink if again_ns[producer[s]] is None or s in keep else producer[s]
                for s in priced
            ],
            dtype=np.int64,
        )
        self.tails = np.array([self.num_ops + s for s in priced], dtype=np.int64)

    def kept(self, prices: Sequence[float] | np.ndarray[Any, Any]) -> set[int]:
        """The storages to keep if keeping storage `s` costs `prices[s]` ns."""
        if not self.priced.size:
            return set()
        exact = np.rint(np.asarray(prices, dtype=np.float64)[self.priced] * PER_NS)
        # If the storages that must be kept cost more than 64 bits hold, cap every price lower.
        for most in (UNCUT, UNCUT // self.priced.size):
            flow = max_flow.SimpleMaxFlow()
            capacities = np.minimum(exact, most).astype(np.int64)
            flow.add_arcs_with_capacity(
                np.concatenate([self.fixed[:, 0], self.tails]),
                np.concatenate([self.fixed[:, 1], self.heads]),
                np.concatenate([self.fixed[:, 2], capacities]),
            )
            status = flow.solve(self.source, self.sink)
            if status == flow.OPTIMAL:
                break
        assert status == flow.OPTIMAL, f"{status} of a flow that cannot overflow"
        on_source_side = np.zeros(self.sink + 1, dtype=bool)
        on_source_side[flow.get_source_side_min_cut()] = True
        is_kept = on_source_side[self.tails] & ~on_source_side[self.heads]
        return set(self.priced[is_kept].tolist())
