"""The problem that a solver gets: a graph, and the bytes that it may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autockpt_solvers.graph import check_integer

if TYPE_CHECKING:
    from autockpt_solvers.graph import ComputeGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Run `graph` such that `fixed_bytes` plus its peak do not exceed `budget_bytes`.

    Attributes:
        graph: The graph.
        budget_bytes: Most bytes in use at any time, fixed bytes included; None for no limit.
        fixed_bytes: Bytes in use during the whole step, whatever the schedule does.
    """

    graph: ComputeGraph
    budget_bytes: int | None
    fixed_bytes: int = 0

    def __post_init__(self) -> None:
        check_integer(self.fixed_bytes, "fixed_bytes")
        if self.fixed_bytes < 0:
            raise ValueError(f"fixed_bytes is {self.fixed_bytes}; it must be 0 or more")
        if self.budget_bytes is None:
            return
        check_integer(self.budget_bytes, "budget_bytes")
        if self.budget_bytes < 0:
            raise ValueError(
                f"budget_bytes is {self.budget_bytes}; it must be 0 or more, or None for no limit"
            )

    @property
    def available_bytes(self) -> int:
        """Bytes that the graph may use.

        Negative if the fixed bytes alone exceed the budget. Without a budget, as many as any
        schedule of the graph could use at once.
        """
        if self.budget_bytes is None:
            return self.graph.most_bytes
        return self.budget_bytes - self.fixed_bytes
