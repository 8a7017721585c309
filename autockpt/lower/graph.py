"""From captured graphs to the engine's torch-free graph of a whole training step."""

from __future__ import annotations

import dataclasses

import torch.fx as fx

from autockpt.capture.captured import Capture
from autockpt.errors import internal_errors
from autockpt.loop import Loop
from autockpt.lower.builder import GraphBuilder
from autockpt.lower.origins import Origin
from autockpt.profile.cache import NodeCost
from autockpt.profile.optimizer import OptimizerMemory
from autockpt_solvers import ComputeGraph


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """The engine's graph with the origin of each of its ops, and what is fixed all through."""

    graph: ComputeGraph
    origins: tuple[Origin, ...]
    fixed_bytes: int


@internal_errors("lower")
def lower(
    capture: Capture,
    costs: dict[fx.Node, NodeCost],
    optimizer: OptimizerMemory,
    *,
    loop: Loop,
    cleared_gradients_bytes: int = 0,
) -> Lowered:
    """Make the compute graph of a whole training step.

    Args:
        capture: The captured step; all of its graphs go into one compute graph.
        costs: Cost of every op node.
        optimizer: What the optimizer keeps, and what it needs while it steps.
        loop: What the training loop does around a call.
        cleared_gradients_bytes: Bytes of older gradients that are freed before the backward.

    Raises:
        InternalError: autockpt has a bug.
    """
    builder = GraphBuilder(capture, costs, loop=loop)
    builder.add_older_gradients(cleared_gradients_bytes)
    for region in range(len(capture.graphs)):
        builder.add_forward(region)
    builder.add_hold()
    for region in reversed(range(len(capture.graphs))):
        if capture.graphs[region].has_backward:
            builder.add_backward(region)
    builder.add_optimizer(optimizer.step_bytes)
    return Lowered(
        graph=builder.finish(),
        origins=tuple(builder.origins),
        fixed_bytes=(
            capture.parameters_bytes
            + capture.buffers_bytes
            + capture.inputs_bytes
            + optimizer.state_bytes
        ),
    )
