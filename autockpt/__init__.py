"""Optimal activation checkpointing for PyTorch: a model, a budget, the same training step."""

from __future__ import annotations

from autockpt.api import get_plan, optimize, plan, restore
from autockpt.budget import Budget
from autockpt.errors import (
    AutockptError,
    BudgetError,
    CaptureError,
    DoubleBackwardError,
    NotTrainableError,
    PeerError,
    VerificationError,
)
from autockpt.plan import Plan

__version__ = "0.1.0"

__all__ = [
    "AutockptError",
    "Budget",
    "BudgetError",
    "CaptureError",
    "DoubleBackwardError",
    "NotTrainableError",
    "PeerError",
    "Plan",
    "VerificationError",
    "get_plan",
    "optimize",
    "plan",
    "restore",
]
