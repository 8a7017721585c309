"""What is asked of a solver: a graph and the bytes it may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autockpt_solvers.graph import check_integer

if TYPE_CHECKING:
    from autockpt_solvers.graph import ComputeGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Run `graph` with `fixed_bytes` plus its own peak at or under `budget_bytes`.

    Attributes:
        graph: The graph.
        budget_bytes: Bound on everything together.
        fixed_bytes: Bytes that stand during the whole step whatever the schedule does.
    """

    graph: ComputeGraph
    budget_bytes: int
    fixed_bytes: int = 0

    def __post_init__(self) -> None:
        check_integer(self.fixed_bytes, "fixed_bytes")
        check_integer(self.budget_bytes, "budget_bytes")
        if self.fixed_bytes < 0:
            raise ValueError(f"fixed_bytes is {self.fixed_bytes}; it must be 0 or more")
        if self.budget_bytes < 0:
            raise ValueError(f"budget_bytes is {self.budget_bytes}; it must be 0 or more")

    @property
    def room_bytes(self) -> int:
        """Bytes left for the graph; below zero when the fixed bytes alone are over the budget."""
        return self.budget_bytes - self.fixed_bytes
