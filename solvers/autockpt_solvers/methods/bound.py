"""Proven lower bounds, for the class of plans named here.

The class: every schedule that runs each backward op exactly once, in the graph's order. Forward
ops may run any number of times, anywhere. Neither bound holds for plans that move or repeat
backward ops.

`lower_bound_bytes`: while a backward op runs, what it reads and writes, its workspace, the
outputs made so far and the backward storages that later backward ops read are all live: no
schedule of the class has a lower peak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.problem import Problem


def forced_bytes(graph: ComputeGraph) -> list[int]:
    """Per backward op, the bytes live while it runs under any schedule of the class."""
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
        forced.append(live + graph.ops[index].workspace_bytes)
    return forced


def lower_bound_bytes(graph: ComputeGraph) -> int:
    """Bytes that no schedule of the class can stay under."""
    own = [
        op.workspace_bytes + sum(graph.size(s) for s in (*op.reads, *op.writes))
        for op, needed in zip(graph.ops, graph.is_needed, strict=True)
        if needed
    ]
    return max([0, *own, *forced_bytes(graph)])


def lower_bound_ns(problem: Problem, *, time_limit_s: float) -> int:
    """Recompute time that no schedule of the class can stay under."""
    del problem, time_limit_s
    return 0
