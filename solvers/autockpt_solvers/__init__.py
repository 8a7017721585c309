"""The engine of autockpt: schedules for compute graphs under a memory budget, without PyTorch."""

from __future__ import annotations

from autockpt_solvers.api import (
    MethodError,
    baseline_schedule,
    check_method,
    found_method,
    judge,
    method_names,
    minimum_budget,
    solve,
)
from autockpt_solvers.attempt import EVERY_PLAN, Attempt, Method
from autockpt_solvers.clock import SearchReport, StopSearch, Watcher
from autockpt_solvers.curve import BudgetCurve, SimplePlan, budget_curve
from autockpt_solvers.graph import ComputeGraph, Op, Storage
from autockpt_solvers.instances import Instance, read_instance
from autockpt_solvers.nearby import cheaper_budgets
from autockpt_solvers.problem import Problem
from autockpt_solvers.result import BudgetPoint, MinimumBudget, Result, SolveStatus
from autockpt_solvers.schedule import Compute, Free, Schedule, with_frees
from autockpt_solvers.serialize import (
    graph_from_json,
    graph_to_json,
    schedule_from_json,
    schedule_to_json,
)
from autockpt_solvers.simulator import MemoryTimeline, ScheduleError, simulate

__all__ = [
    "EVERY_PLAN",
    "Attempt",
    "BudgetCurve",
    "BudgetPoint",
    "Compute",
    "ComputeGraph",
    "Free",
    "Instance",
    "MemoryTimeline",
    "Method",
    "MethodError",
    "MinimumBudget",
    "Op",
    "Problem",
    "Result",
    "Schedule",
    "ScheduleError",
    "SearchReport",
    "SimplePlan",
    "SolveStatus",
    "StopSearch",
    "Storage",
    "Watcher",
    "baseline_schedule",
    "budget_curve",
    "cheaper_budgets",
    "check_method",
    "found_method",
    "graph_from_json",
    "graph_to_json",
    "judge",
    "method_names",
    "minimum_budget",
    "read_instance",
    "schedule_from_json",
    "schedule_to_json",
    "simulate",
    "solve",
    "with_frees",
]
