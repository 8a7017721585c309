"""What a plan must not run twice."""

from __future__ import annotations

from autockpt.capture.captured import CapturedGraph, reads_any
from autockpt.capture.joint import JointNode, gives_the_same_again
from autockpt.capture.nodes import activation_writes, is_batch_norm


def must_run_once(
    graph: CapturedGraph,
    op: JointNode,
    *,
    is_outside: bool,
    held: frozenset[int],
    overwritten_keys: frozenset[int],
    on_accelerator: bool,
) -> bool:
    """Whether an op must not be recomputed.

    Args:
        graph: Its captured graph.
        op: The op.
        is_outside: Whether code outside of the model runs it.
        held: The graph's storages that stay to the end of the step.
        overwritten_keys: Inputs of any graph that a graph overwrites.
        on_accelerator: Whether it runs on an accelerator that is not here.
    """
    # Nothing is recomputed for a graph without a backward, nor by code outside of the model.
    if is_outside or not graph.has_backward or op.is_backward:
        return True
    # It has effects, or is not known to give the same bits again.
    if not gives_the_same_again(op, on_accelerator=on_accelerator):
        return True
    # What it reads may have another value by then; BatchNorm runs again without its statistics.
    if reads_any(graph, op, overwritten_keys) and not is_batch_norm(op.node):
        return True
    # Its result is never freed.
    return any(storage in held for storage in activation_writes(op.node, op.writes))
