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
    """A graph whose backward ops stand in another order.

    Attributes:
        graph: The graph.
        originals: Per op of `graph`, its index in the graph that it was made from.
    """

    graph: ComputeGraph
    originals: tuple[int, ...]

    def originally(self, order: Sequence[int]) -> list[int]:
        """A compute order of `graph` as one of the graph that it was made from."""
        return [self.originals[op] for op in order]

    def attempt(self, found: Attempt) -> Attempt:
        """Plans for `graph` as plans for the graph that it was made from."""
        return Attempt(
            orders=tuple(self.originally(order) for order in found.orders),
            fixed=tuple(self.originally(order) for order in found.fixed),
            method=found.method,
        )


def with_backward(graph: ComputeGraph, backward: Sequence[int]) -> Moved:
    """The graph with its backward ops in an order that their reads allow.

    Args:
        graph: The graph.
        backward: Its backward ops, each once; they stay within their stretch.

    Raises:
        ValueError: An op reads what is written later.
    """
    originals = (*range(graph.num_forward), *backward)
    ops = tuple(graph.ops[op] for op in originals)
    return Moved(ComputeGraph(ops=ops, storages=graph.storages, outputs=graph.outputs), originals)
