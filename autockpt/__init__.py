"""Optimal activation checkpointing for PyTorch: a model, a budget, the same training step."""

from __future__ import annotations

from autockpt import zoo
from autockpt.api import get_plan, optimize, plan, restore
from autockpt.batch.answer import BatchSize
from autockpt.batch.largest import max_batch_size
from autockpt.batch.tokens import TokensPerBatch, max_tokens_per_batch
from autockpt.budget import Budget, format_bytes, parse_budget
from autockpt.curves import pareto
from autockpt.devices.device import Device, Efficiency, PeakRates
from autockpt.errors import (
    AutockptError,
    BudgetError,
    CaptureError,
    DoubleBackwardError,
    InternalError,
    NotTrainableError,
    PeerError,
    PlanMismatchError,
    TorchVersionError,
    VerificationError,
)
from autockpt.fitting.answer import Fit
from autockpt.fitting.search import fit
from autockpt.fitting.value import Change, Variant, Way
from autockpt.report.curve.points import CurvePoint, SimplePoint
from autockpt.report.curve.value import Curve
from autockpt.report.parts import FixedBytes, ModuleRow
from autockpt.report.plan import Plan
from autockpt.verify.peak import measure_peak_bytes

__version__ = "0.1.0"

__all__ = [
    "AutockptError",
    "BatchSize",
    "Budget",
    "BudgetError",
    "CaptureError",
    "Change",
    "Curve",
    "CurvePoint",
    "Device",
    "DoubleBackwardError",
    "Efficiency",
    "Fit",
    "FixedBytes",
    "InternalError",
    "ModuleRow",
    "NotTrainableError",
    "PeakRates",
    "PeerError",
    "Plan",
    "PlanMismatchError",
    "SimplePoint",
    "TokensPerBatch",
    "TorchVersionError",
    "Variant",
    "VerificationError",
    "Way",
    "fit",
    "format_bytes",
    "get_plan",
    "max_batch_size",
    "max_tokens_per_batch",
    "measure_peak_bytes",
    "optimize",
    "pareto",
    "parse_budget",
    "plan",
    "restore",
    "zoo",
]
