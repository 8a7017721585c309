"""Proven lower bounds on the peak of a schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autockpt_solvers.graph import ComputeGraph


def least_op_bytes(graph: ComputeGraph) -> int:
    """Bytes that every schedule needs: those of the largest op that must run, by itself."""
    own = [
        working + sum(graph.size(s) for s in (*op.reads, *op.writes))
        for op, working, needed in zip(graph.ops, graph.working_bytes, graph.is_needed, strict=True)
        if needed
    ]
    return max(own, default=0)


def lower_bound_bytes(graph: ComputeGraph) -> int:
    """Bytes that every schedule needs that runs each backward op once, in the graph's order."""
    return max([least_op_bytes(graph), *forced_bytes(graph)])


def forced_bytes(graph: ComputeGraph) -> list[int]:
    """Per backward op, the bytes in use while it runs, whatever the forward ops do.

    These are what it reads and writes, its workspace, the outputs made so far, and the storages of
    earlier backward ops that later ones read. Holds for schedules that run each backward op once,
    in the graph's order.
    """
    num_forward, num_ops = graph.num_forward, len(graph.ops)
    change = [0] * (num_ops + 1)
    for storage, born in enumerate(graph.producer):
        size = graph.size(storage)
        readers = [r for r in graph.readers[storage] if r >= num_forward]
        if graph.is_output[storage]:
            change[max(born, num_forward)] += size
        elif born >= num_forward:
            change[born] += size
            change[max([born, *readers]) + 1] -= size
        else:
            for reader in readers:
                change[reader] += size
                change[reader + 1] -= size
    live = 0
    forced = []
    for index in range(num_forward, num_ops):
        live += change[index]
        forced.append(live + graph.working_bytes[index])
    return forced
