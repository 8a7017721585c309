"""Optimal activation checkpointing for PyTorch: a model, a budget, the same training step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.lazy_names import lazy_names

if TYPE_CHECKING:
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
        CostError,
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
    from autockpt.profile.cost_model import CostModel, Operation
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
    "CostError",
    "CostModel",
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
    "Operation",
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

# Importing torch takes seconds, and `autockpt --help` needs none of it.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AutockptError": "autockpt.errors",
        "BatchSize": "autockpt.batch.answer",
        "Budget": "autockpt.budget",
        "BudgetError": "autockpt.errors",
        "CaptureError": "autockpt.errors",
        "Change": "autockpt.fitting.value",
        "CostError": "autockpt.errors",
        "CostModel": "autockpt.profile.cost_model",
        "Curve": "autockpt.report.curve.value",
        "CurvePoint": "autockpt.report.curve.points",
        "Device": "autockpt.devices.device",
        "DoubleBackwardError": "autockpt.errors",
        "Efficiency": "autockpt.devices.device",
        "Fit": "autockpt.fitting.answer",
        "FixedBytes": "autockpt.report.parts",
        "InternalError": "autockpt.errors",
        "ModuleRow": "autockpt.report.parts",
        "NotTrainableError": "autockpt.errors",
        "Operation": "autockpt.profile.cost_model",
        "PeakRates": "autockpt.devices.device",
        "PeerError": "autockpt.errors",
        "Plan": "autockpt.report.plan",
        "PlanMismatchError": "autockpt.errors",
        "SimplePoint": "autockpt.report.curve.points",
        "TokensPerBatch": "autockpt.batch.tokens",
        "TorchVersionError": "autockpt.errors",
        "Variant": "autockpt.fitting.value",
        "VerificationError": "autockpt.errors",
        "Way": "autockpt.fitting.value",
        "fit": "autockpt.fitting.search",
        "format_bytes": "autockpt.budget",
        "get_plan": "autockpt.api",
        "max_batch_size": "autockpt.batch.largest",
        "max_tokens_per_batch": "autockpt.batch.tokens",
        "measure_peak_bytes": "autockpt.verify.peak",
        "optimize": "autockpt.api",
        "pareto": "autockpt.curves",
        "parse_budget": "autockpt.budget",
        "plan": "autockpt.api",
        "restore": "autockpt.api",
        "zoo": "autockpt.zoo",
    },
)
