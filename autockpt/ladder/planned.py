"""A plan together with what the runtime needs to follow it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from autockpt.checkpoint.runtime import CheckpointedCalls, CheckpointedStep
from autockpt.report.plan import Plan
from autockpt.rewrite.runtime import PlannedRegions, PlannedStep

FollowedStep = PlannedStep | CheckpointedStep


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan and what the runtime needs to follow it."""

    plan: Plan
    program: PlannedRegions | CheckpointedCalls

    def follow(
        self, module: torch.nn.Module, forward: Callable[..., Any], *, in_order: bool
    ) -> FollowedStep:
        """The forward of a module made to follow the plan; see `PlannedStep`."""
        if isinstance(self.program, CheckpointedCalls):
            return CheckpointedStep(module, forward, self.program)
        return PlannedStep(module, forward, self.program, in_order=in_order)
