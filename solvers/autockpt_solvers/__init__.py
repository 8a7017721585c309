"""The engine of autockpt: schedules for compute graphs under a memory budget, without PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.lazy_names import lazy_names

if TYPE_CHECKING:
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

# Importing the kernels' compiler takes half a second; the command line needs only `near_names`.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Attempt": "autockpt_solvers.attempt",
        "BudgetCurve": "autockpt_solvers.curve",
        "BudgetPoint": "autockpt_solvers.result",
        "Compute": "autockpt_solvers.schedule",
        "ComputeGraph": "autockpt_solvers.graph",
        "EVERY_PLAN": "autockpt_solvers.attempt",
        "Free": "autockpt_solvers.schedule",
        "Instance": "autockpt_solvers.instances",
        "MemoryTimeline": "autockpt_solvers.simulator",
        "Method": "autockpt_solvers.attempt",
        "MethodError": "autockpt_solvers.api",
        "MinimumBudget": "autockpt_solvers.result",
        "Op": "autockpt_solvers.graph",
        "Problem": "autockpt_solvers.problem",
        "Result": "autockpt_solvers.result",
        "Schedule": "autockpt_solvers.schedule",
        "ScheduleError": "autockpt_solvers.simulator",
        "SearchReport": "autockpt_solvers.clock",
        "SimplePlan": "autockpt_solvers.curve",
        "SolveStatus": "autockpt_solvers.result",
        "StopSearch": "autockpt_solvers.clock",
        "Storage": "autockpt_solvers.graph",
        "Watcher": "autockpt_solvers.clock",
        "baseline_schedule": "autockpt_solvers.api",
        "budget_curve": "autockpt_solvers.curve",
        "cheaper_budgets": "autockpt_solvers.nearby",
        "check_method": "autockpt_solvers.api",
        "found_method": "autockpt_solvers.api",
        "graph_from_json": "autockpt_solvers.serialize",
        "graph_to_json": "autockpt_solvers.serialize",
        "judge": "autockpt_solvers.api",
        "method_names": "autockpt_solvers.api",
        "minimum_budget": "autockpt_solvers.api",
        "read_instance": "autockpt_solvers.instances",
        "schedule_from_json": "autockpt_solvers.serialize",
        "schedule_to_json": "autockpt_solvers.serialize",
        "simulate": "autockpt_solvers.simulator",
        "solve": "autockpt_solvers.api",
        "with_frees": "autockpt_solvers.schedule",
    },
)
