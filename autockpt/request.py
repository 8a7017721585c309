"""What you ask of a plan, apart from the model and its inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from autockpt.budget import Budget
from autockpt.profile.optimizer import OptimizerMemory
from autockpt.report.plan import Plan
from autockpt_solvers import Method


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a plan; see ``optimize``. With ``given``, that plan is followed."""

    budget: Budget
    optimizer: OptimizerMemory
    loss_fn: Callable[[Any], torch.Tensor] | None
    method: str | Method
    time_limit_s: float
    progress: bool = True
    given: Plan | None = None


# Dimensions of inputs that may vary: pairs of the leaf's index and the dimension's.
Dimensions = frozenset[tuple[int, int]]
