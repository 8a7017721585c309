"""What every rung that plans has in common: the protocol between the ladder and its planners."""

from __future__ import annotations

from typing import Protocol, Self

import torch

from autockpt.ladder.executable import ExecutablePlan
from autockpt.report.plan import Plan
from autockpt_solvers import ComputeGraph


class StepPlanner(Protocol):
    """A training step, measured once, that can be planned for any budget."""

    @property
    def is_fake(self) -> bool:
        """Whether the model or its inputs have no data, so that no step can run."""

    @property
    def is_complete(self) -> bool:
        """Whether the plan covers the whole step, so that no lower rung needs less memory."""

    @property
    def graphs(self) -> tuple[ComputeGraph, ...]:
        """The engine's graphs of the step; a plan is for one of them."""

    @property
    def split(self) -> str:
        """Where Dynamo splits the forward, and why; empty if it does not."""

    @property
    def baseline_peak_bytes(self) -> int:
        """The peak of the eager step, everything counted."""

    @property
    def budget_bytes(self) -> int:
        """The budget to plan for."""

    @property
    def fixed_bytes(self) -> int:
        """Memory that the whole step needs, whatever the plan."""

    @property
    def device(self) -> torch.device:
        """The device of the step."""

    def with_budget(self, budget_bytes: int) -> Self:
        """The same step with another budget."""

    def plan(self, *, held_back_bytes: int = 0) -> ExecutablePlan:
        """Solve for the budget.

        Args:
            held_back_bytes: Deducted from the budget while solving: by how much a measured step
                exceeded its prediction.

        Raises:
            BudgetError: No schedule fits; has the smallest workable budget and a breakdown of it.
            InternalError: A bug in autockpt.
        """

    def untouched(self) -> Plan:
        """The plan that leaves the model as it is."""

    @property
    def is_refused_at_once(self) -> bool:
        """Whether a bound proves, before any search, that no plan fits."""

    def unplanned(self) -> ExecutablePlan | None:
        """The step with nothing recomputed, to compare with eager before a solver runs.

        None if there is nothing to learn from it.
        """
