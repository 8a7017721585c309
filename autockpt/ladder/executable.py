"""A plan together with what it takes to follow it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from autockpt.capture.compiled import CompiledForward
from autockpt.checkpoint.runtime import CheckpointedCalls, CheckpointedForward
from autockpt.errors import internal_errors
from autockpt.report.plan import Plan
from autockpt.rewrite.regions import PlannedRegions
from autockpt.rewrite.runtime import PlannedForward


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExecutablePlan:
    """A plan and the program that follows it.

    Attributes:
        plan: The plan.
        program: The program. It belongs to no module, and can be pickled.
        compiled: A module's forward that is compiled already, if there is one.
        is_untried: Whether nothing has shown yet that the step runs the plan's graphs.
    """

    plan: Plan
    program: PlannedRegions | CheckpointedCalls
    compiled: CompiledForward | None = None
    is_untried: bool = False

    def without_module(self) -> ExecutablePlan:
        """The same for any module of this kind."""
        return dataclasses.replace(self, compiled=None)

    def with_open_numbers(self) -> ExecutablePlan | None:
        """The same plan, for Python numbers that change; None if it is for such already."""
        program = self.program
        if not isinstance(program, PlannedRegions) or program.numbers_vary or program.blocks:
            return None
        return ExecutablePlan(
            plan=self.plan, program=dataclasses.replace(program, numbers_vary=True)
        )

    def forward_of(
        self, module: torch.nn.Module, forward: Callable[..., Any], *, in_order: bool
    ) -> PlannedForward | CheckpointedForward:
        """Return a forward of the module that follows the plan; see `PlannedForward`.

        Args:
            module: The module.
            forward: Its own forward.
            in_order: Produce gradients in eager's order.

        Raises:
            InternalError: The plan cannot be turned into a forward.
        """
        with internal_errors("rewrite"):
            if isinstance(self.program, CheckpointedCalls):
                return CheckpointedForward(module, forward, self.program)
            return PlannedForward(
                module,
                forward,
                self.program,
                in_order=in_order,
                compiled=self.compiled,
                is_untried=self.is_untried,
            )


def is_one_graph(program: PlannedRegions | CheckpointedCalls) -> bool:
    """Whether a program is for a forward that is exactly one graph, or pieces of one."""
    if not isinstance(program, PlannedRegions) or program.blocks or program.numbers_vary:
        return False
    return bool(program.pieces) or len(program.regions) == 1


def changing(forward: Callable[..., Any] | None) -> str:
    """What changes at every call, so that a forward compiles anew every time; empty if nothing."""
    return str(getattr(forward, "changing", ""))


def is_stale(forward: Callable[..., Any] | None) -> bool:
    """Whether a forward ran a graph that its plan does not contain, or one that cannot serve."""
    return bool(getattr(forward, "is_stale", False))


def is_twice(forward: Callable[..., Any] | None) -> bool:
    """Whether a backward was refused because it was to be differentiated again."""
    return bool(getattr(forward, "is_twice", False))


def has_eager_graph(executable: ExecutablePlan | None) -> bool:
    """Whether autograd sees a step by this plan as in eager, node by node."""
    return executable is None or isinstance(executable.program, CheckpointedCalls)
