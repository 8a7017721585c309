"""A schedule as one compute order for each captured graph."""

from __future__ import annotations

import dataclasses

from autockpt.errors import internal_errors
from autockpt.lower.origins import Origin
from autockpt_solvers import Compute, ComputeGraph, Schedule


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RegionOrder:
    """The part of a schedule for one captured graph, in positions of its joint ops.

    Attributes:
        forward: What its forward runs. An op that occurs twice is recomputed in the forward itself,
            because its value was freed for a peak between its uses.
        backward: What its backward runs: backward ops once, forward ops as often as they occur.
        replayed: Ops that run more than once. For random ops the generator's state is saved.
    """

    forward: tuple[int, ...]
    backward: tuple[int, ...]
    replayed: frozenset[int]


@internal_errors("lower")
def region_orders(
    graph: ComputeGraph, origins: tuple[Origin, ...], schedule: Schedule, num_regions: int
) -> tuple[RegionOrder, ...]:
    """Split a schedule of the whole step into one order per captured graph."""
    order = [step.op for step in schedule.steps if isinstance(step, Compute)]
    first_runs = {op: position for position, op in reversed(list(enumerate(order)))}
    turn = max(
        (first_runs[op] for op, needed in enumerate(graph.is_required) if needed), default=-1
    )
    forward: list[list[int]] = [[] for _ in range(num_regions)]
    backward: list[list[int]] = [[] for _ in range(num_regions)]
    seen: list[set[int]] = [set() for _ in range(num_regions)]
    replayed: list[set[int]] = [set() for _ in range(num_regions)]
    for position, op in enumerate(order):
        origin = origins[op]
        if origin.kind != "node":
            continue
        region, index = origin.region, origin.joint_op
        (forward if position <= turn else backward)[region].append(index)
        if index in seen[region]:
            replayed[region].add(index)
        seen[region].add(index)
    return tuple(
        RegionOrder(forward=tuple(f), backward=tuple(b), replayed=frozenset(r))
        for f, b, r in zip(forward, backward, replayed, strict=True)
    )
