"""What other calls need between two phases of a step, as a part of the step's graph."""

from __future__ import annotations

import dataclasses

from autockpt.loop import OtherModels
from autockpt_solvers import ComputeGraph


def with_others(graph: ComputeGraph, others: OtherModels) -> ComputeGraph:
    """Return the graph with the memory that others need between two phases of the step.

    The first operation of the backward stands for what runs before it, and the last one is the
    optimizer's step.

    Args:
        graph: The graph of a step.
        others: What the others need.
    """
    ops = list(graph.ops)
    more = ((graph.num_forward, others.between_bytes), (len(ops) - 1, others.after_bytes))
    for at, more_bytes in more:
        workspace_bytes = ops[at].workspace_bytes + more_bytes
        ops[at] = dataclasses.replace(ops[at], workspace_bytes=workspace_bytes)
    return dataclasses.replace(graph, ops=tuple(ops))


def without_others(graph: ComputeGraph) -> ComputeGraph:
    """Return the graph of the forward and the backward alone, whatever `with_others` added."""
    ops = list(graph.ops)
    for at in (graph.num_forward, len(ops) - 1):
        ops[at] = dataclasses.replace(ops[at], workspace_bytes=0)
    return dataclasses.replace(graph, ops=tuple(ops))


def forward_peak_bytes(graph: ComputeGraph) -> int:
    """The peak of the forward as it runs without gradients: nothing is saved for a backward."""
    num_forward = graph.num_forward
    live_bytes = peak_bytes = 0
    for at, op in enumerate(graph.ops[:num_forward]):
        live_bytes += sum(graph.size(storage) for storage in op.writes)
        peak_bytes = max(peak_bytes, live_bytes + graph.working_bytes[at])
        for storage in {*op.reads, *op.writes}:
            later = (reader for reader in graph.readers[storage] if at < reader < num_forward)
            if not graph.is_output[storage] and next(later, None) is None:
                live_bytes -= graph.size(storage)
    return peak_bytes
