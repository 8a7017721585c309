"""What a solver answers: which op runs when, and when each storage is let go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.graph import ComputeGraph


@dataclass(frozen=True, slots=True)
class Compute:
    """Run an op: all its reads are live, none of its writes is. What it overwrites is gone then."""

    op: int


@dataclass(frozen=True, slots=True)
class Free:
    """Let a storage go."""

    storage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Steps of one training step, in order."""

    steps: tuple[Compute | Free, ...]

    @property
    def compute_order(self) -> tuple[int, ...]:
        """The ops in the order they run, repeats included."""
        return tuple(step.op for step in self.steps if isinstance(step, Compute))


def with_frees(graph: ComputeGraph, compute_order: Sequence[int]) -> Schedule:
    """Makes the schedule that runs `compute_order` and frees each storage as early as it can.

    An instance of a storage is freed right after its last read before the storage is written
    again; one that is never read, right after it is written. Outputs stay, and what an op
    overwrites goes by itself. This is the normal form of a schedule.

    Args:
        graph: The graph.
        compute_order: Op indices in the order they run. It is not checked; `simulate` does that.

    Returns:
        The schedule.
    """
    frees: list[list[int]] = [[] for _ in compute_order]
    is_output = graph.is_output
    # Walking backwards, the first time an instance is met is where it dies.
    pending = [False] * len(graph.storages)
    for position in range(len(compute_order) - 1, -1, -1):
        op = graph.ops[compute_order[position]]
        for storage in op.writes:
            if not pending[storage] and not is_output[storage]:
                frees[position].append(storage)
            pending[storage] = False
        for storage in op.reads:
            if not pending[storage]:
                pending[storage] = True
                if not is_output[storage] and storage not in op.overwrites:
                    frees[position].append(storage)
    steps: list[Compute | Free] = []
    for position, index in enumerate(compute_order):
        steps.append(Compute(index))
        steps.extend(Free(storage) for storage in sorted(frees[position]))
    return Schedule(steps=tuple(steps))
