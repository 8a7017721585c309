"""What differs between the step that a plan was made for and another step."""

from __future__ import annotations

from autockpt_solvers import ComputeGraph, Op


def first_difference(planned: ComputeGraph, step: ComputeGraph) -> str:
    """The first thing that keeps a schedule of one graph from being one of the other, in words.

    Run times and workspaces may differ: they depend on the device. Names do not matter.

    Args:
        planned: The graph of the plan.
        step: The graph of the step that is to follow it.

    Returns:
        The difference; empty if there is none.
    """
    sizes = f"the plan has {len(planned.ops)} operations, and this step has {len(step.ops)}"
    for number, (there, here) in enumerate(zip(planned.ops, step.ops, strict=False)):
        if _shape(planned, there) != _shape(step, here):
            named, found = _described(planned, there), _described(step, here)
            if named == found:
                found = "the same, but it reads other tensors or is used otherwise"
            return (
                f"{sizes}; the first that differs is operation {number}: in the plan {named}, in "
                f"this step {found}"
            )
    if len(planned.ops) != len(step.ops):
        return sizes
    if planned.outputs != step.outputs:
        return "the plan leaves other tensors at the end of the step than this step does"
    return ""


def _shape(graph: ComputeGraph, op: Op) -> tuple[object, ...]:
    return (
        op.reads,
        op.writes,
        op.overwrites,
        op.is_backward,
        op.recomputable,
        op.is_fence,
        op.region,
        tuple(graph.storages[storage].size_bytes for storage in op.writes),
    )


def _described(graph: ComputeGraph, op: Op) -> str:
    size_bytes = sum(graph.storages[storage].size_bytes for storage in op.writes)
    phase = "backward" if op.is_backward else "forward"
    place = f", in the {phase} of {op.segment}" if op.segment else ""
    return f"{op.name} ({size_bytes:,} bytes{place})"
