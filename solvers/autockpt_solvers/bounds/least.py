"""A proven lower bound on the peak that also counts what must be kept for later.

While a backward op runs, its own storages are in memory, and those that other backward ops pass on
(`peak.forced_bytes`). Whatever later backward ops read of the forward pass is in memory too, or is
recomputed from something that is. The fewest bytes from which all of it can be recomputed are a
minimum cut, because a run costs nothing here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.bounds.peak import lower_bound_bytes
from autockpt_solvers.bounds.recomputation import Relaxation

if TYPE_CHECKING:
    from autockpt_solvers.graph import ComputeGraph

_MOST_STEPS = 40  # backward ops that are looked at, those with the most forced bytes


def least_peak_bytes(graph: ComputeGraph) -> int:
    """Bytes that every schedule needs that runs each backward op once, in the graph's order."""
    least = lower_bound_bytes(graph)
    if graph.num_forward in (0, len(graph.ops)):
        return least
    relaxation = Relaxation(graph, 0)
    num_backward = len(graph.ops) - graph.num_forward
    steps = sorted(range(num_backward), key=lambda step: -relaxation.forced[step])
    unlimited_bytes = graph.most_bytes + 1
    for step in steps[:_MOST_STEPS]:
        kept_bytes = _fewest_kept_bytes(relaxation, step, unlimited_bytes)
        least = max(least, relaxation.forced[step] + kept_bytes)
    return least


def _fewest_kept_bytes(relaxation: Relaxation, step: int, unlimited_bytes: int) -> int:
    """The fewest bytes from which all that is read after a time step can be recomputed.

    Args:
        relaxation: The relaxation of the graph.
        step: The time step.
        unlimited_bytes: The capacity of arcs that no cut may take.
    """
    from ortools.graph.python import max_flow

    graph = relaxation.graph
    source = graph.num_forward + len(graph.storages)
    ends = {-1: source, -2: source + 1}
    flow = max_flow.SimpleMaxFlow()
    arcs = relaxation.layer(step)
    for tail, head, size in arcs:
        capacity = unlimited_bytes if size < 0 else size
        flow.add_arc_with_capacity(ends.get(tail, tail), ends.get(head, head), capacity)
    if not arcs or flow.solve(source, source + 1) != flow.OPTIMAL:
        return 0
    return int(flow.optimal_flow())
