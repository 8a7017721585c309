"""A solver's answer: which op runs when, and when each storage is freed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.graph import ComputeGraph


@dataclass(frozen=True, slots=True)
class Compute:
    """Run an op: its reads must be live, its writes must not be. It frees what it overwrites."""

    op: int


@dataclass(frozen=True, slots=True)
class Free:
    """Free a storage."""

    storage: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Schedule:
    """Steps of one training step, in order."""

    steps: tuple[Compute | Free, ...]

    def __repr__(self) -> str:
        order = self.compute_order
        return (
            f"<Schedule: {len(order):,} runs of {len(set(order)):,} ops, "
            f"{len(self.steps) - len(order):,} frees>"
        )

    @property
    def compute_order(self) -> tuple[int, ...]:
        """The ops in the order they run, repeats included."""
        return tuple(step.op for step in self.steps if isinstance(step, Compute))


def with_frees(graph: ComputeGraph, compute_order: Sequence[int]) -> Schedule:
    """The schedule that runs `compute_order` and frees each storage as early as possible.

    A storage is freed right after its last read before it is written again; if nothing reads it,
    right after it is written. Outputs stay, and an op frees what it overwrites. This is the normal
    form of a schedule.

    Args:
        graph: The graph.
        compute_order: Op indices in the order they run. Only `simulate` checks it.

    Returns:
        The schedule.
    """
    frees: list[list[int]] = [[] for _ in compute_order]
    is_output = graph.is_output
    # From the end backwards, the first use of a value is its last.
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
