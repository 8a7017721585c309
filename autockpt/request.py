"""What you ask of a plan, apart from the model and its inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from autockpt.budget import Budget
from autockpt.devices.device import Device
from autockpt.profile.cost_model import CostModel
from autockpt.profile.optimizer import OptimizerMemory
from autockpt.report.plan import Plan
from autockpt_solvers import Method


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a plan; see ``optimize``.

    With ``ends_early``, a search that has stalled ends before its time limit. With ``given``, that
    plan is followed. ``keeps_outputs`` of None is found out at the first backward. ``device`` is
    the device that the plan is for if that is not here. ``optimizer_held_bytes`` are the bytes of
    the state that the optimizer had on a device when you asked. With ``watch``, steps are measured
    while you train. ``cost`` decides what operations cost; without one, the profile does.
    """

    budget: Budget
    optimizer: OptimizerMemory
    loss_fn: Callable[[Any], torch.Tensor] | None
    method: str | Method
    time_limit_s: float
    ends_early: bool = False
    progress: bool = True
    keeps_outputs: bool | None = None
    given: Plan | None = None
    device: Device | None = None
    optimizer_held_bytes: int = 0
    watch: bool = True
    cost: CostModel | None = None

    @property
    def kept_limit_s(self) -> float:
        """The time limit that a kept plan names; 0 if the search ends once it has stalled."""
        return 0.0 if self.ends_early else self.time_limit_s


# Dimensions of inputs that may vary: pairs of the leaf's index and the dimension's.
Dimensions = frozenset[tuple[int, int]]
