"""A compute order as the two tables of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from autockpt_solvers.orders.facts import GraphFacts


def is_decided(facts: GraphFacts, storage: int) -> bool:
    """Whether there is a choice to keep a storage or to recompute it."""
    graph, region = facts.graph, facts.region
    op = graph.producer[storage]
    return (
        facts.rerunnable[op]
        and bool(graph.readers[storage])
        and all(region[r] == region[op] for r in graph.readers[storage])
    )


def encode(
    facts: GraphFacts,
    order: Sequence[int],
    forward: Sequence[int],
    decided: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """What an order keeps.

    Args:
        facts: The graph.
        order: An order that can run.
        forward: The storages of the forward pass.
        decided: Per such storage, whether the tables decide about it.

    Returns:
        Per such storage, whether it is kept at the end of the forward pass; per such storage and
        backward op, whether it is kept after the op, if that touches it.
    """
    graph = facts.graph
    num_forward = graph.num_forward
    kept_at_end = np.zeros(len(graph.storages), dtype=np.int64)
    for storage, is_choice in zip(forward, decided.tolist(), strict=True):
        fixed = not is_choice and bool(graph.readers[storage])
        kept_at_end[storage] = fixed and graph.is_required[graph.producer[storage]]
    kept_after = np.ones((len(graph.storages), len(graph.ops) - num_forward), dtype=np.uint8)
    left = sum(graph.is_required)
    end, seen = 0, set[int]()
    while left:
        left -= graph.is_required[order[end]] and order[end] not in seen
        seen.add(order[end])
        end += 1
    # Per storage of the forward pass, the backward op that touched its value last; -1 for none yet.
    last = {s: -1 for op in order[:end] for s in facts.writes[op]}
    row = 0
    for op in order[end:]:
        for storage in facts.reads[op]:
            if last.get(storage, 0) < 0:
                kept_at_end[storage] = 1
            last[storage] = row
        if op >= num_forward:
            row += 1
            continue
        for storage in facts.writes[op]:
            if 0 <= last.get(storage, -1) < row:
                kept_after[storage, last[storage]] = 0
            last[storage] = row
    return kept_at_end[forward], kept_after[forward]
