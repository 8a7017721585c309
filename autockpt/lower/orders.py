"""A schedule as one compute order for each captured graph."""

from __future__ import annotations

import dataclasses

from autockpt.errors import internal_errors
from autockpt.lower.origins import Origin
from autockpt.report.timeline.replay import forward_end
from autockpt_solvers import Compute, ComputeGraph, Schedule, simulate


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


def forward_peak_bytes(graph: ComputeGraph, schedule: Schedule) -> int:
    """The peak of a schedule before the backward begins."""
    live_bytes = simulate(graph, schedule).live_bytes
    return max(live_bytes[: forward_end(graph, schedule) + 1], default=0)


@internal_errors("lower")
def region_orders(
    graph: ComputeGraph, origins: tuple[Origin, ...], schedule: Schedule, num_regions: int
) -> tuple[RegionOrder, ...]:
    """Split a schedule of the whole step into one order per captured graph."""
    end = forward_end(graph, schedule)
    forward: list[list[int]] = [[] for _ in range(num_regions)]
    backward: list[list[int]] = [[] for _ in range(num_regions)]
    seen: list[set[int]] = [set() for _ in range(num_regions)]
    replayed: list[set[int]] = [set() for _ in range(num_regions)]
    for position, step in enumerate(schedule.steps):
        if not isinstance(step, Compute):
            continue
        origin = origins[step.op]
        if origin.kind != "node":
            continue
        region, index = origin.region, origin.joint_op
        (forward if position <= end else backward)[region].append(index)
        if index in seen[region]:
            replayed[region].add(index)
        seen[region].add(index)
    return tuple(
        RegionOrder(forward=tuple(f), backward=tuple(b), replayed=frozenset(r))
        for f, b, r in zip(forward, backward, replayed, strict=True)
    )
