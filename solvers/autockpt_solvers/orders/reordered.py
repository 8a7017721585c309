"""A graph with its backward ops in another order, and plans translated between the two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.graph import ComputeGraph

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Moved:
    """A graph with its backward ops in another order.

    Attributes:
        graph: The graph.
        originals: Per op of `graph`, its index in the original graph.
    """

    graph: ComputeGraph
    originals: tuple[int, ...]

    def originally(self, order: Sequence[int]) -> list[int]:
        """A compute order of `graph` as one of the original graph."""
        return [self.originals[op] for op in order]

    def attempt(self, found: Attempt) -> Attempt:
        """Plans for `graph` as plans for the original graph."""
        return Attempt(
            orders=tuple(self.originally(order) for order in found.orders),
            method=found.method,
        )


def with_backward(graph: ComputeGraph, backward: Sequence[int]) -> Moved:
    """The graph with its backward ops in another order.

    Args:
        graph: The graph.
        backward: Its backward ops, each once and within its stretch.

    Raises:
        ValueError: An op reads what a later one writes.
    """
    originals = (*range(graph.num_forward), *backward)
    ops = tuple(graph.ops[op] for op in originals)
    return Moved(ComputeGraph(ops=ops, storages=graph.storages, outputs=graph.outputs), originals)
