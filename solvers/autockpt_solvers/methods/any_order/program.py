"""Solving a program of the whole graph: least time within the budget, or else the least peak."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.cp_sat import solve_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.clock import Clock
    from autockpt_solvers.methods.any_order.staged import Run, StagedGraph
    from autockpt_solvers.problem import Problem


class Program(Protocol):
    """A program for CP-SAT.

    Attributes:
        model: The model, without budget and objective.
        peak: The peak, in units.
        unit: Bytes per unit.
        cost_ns: Recompute time, as an expression.
        linearization_level: How much of it CP-SAT should put into its linear relaxation.
    """

    linearization_level: int
    model: Any
    peak: Any
    unit: int

    @property
    def cost_ns(self) -> Any:
        """Recompute time."""

    def runs_again(self, value: Any) -> set[Run]:
        """The runs of a solution; `value` gives the value of a variable."""


def minimise(
    problem: Problem,
    staged: StagedGraph,
    program: Program,
    found: Sequence[Sequence[int]],
    *,
    bound_class: str,
    deadline: float,
    clock: Clock,
    seed: int,
    effort: float = math.inf,
) -> Attempt:
    """Find the least time within the budget or, if nothing fits, the least peak.

    Args:
        problem: The problem.
        staged: Its graph in stages.
        program: The program.
        found: Compute orders to offer besides.
        bound_class: The plans that the program's bounds hold for.
        deadline: Time at which the search ends.
        clock: The clock of the search.
        seed: Random seed.
        effort: Ends the search too: deterministic time, in about seconds.

    Returns:
        The orders, and what is proven.
    """
    from ortools.sat.python import cp_model

    orders = list(found)
    bound_ns = bound_bytes = 0
    within = program.model.clone()
    within.add(program.peak <= max(-1, problem.available_bytes // program.unit))
    within.minimize(program.cost_ns)
    solver = _solver(program, clock.seconds_left(deadline), seed, effort)
    status = solve_model(solver, within, clock)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        orders.append(staged.compute_order(program.runs_again(solver.value)))
        bound_ns = math.ceil(solver.best_objective_bound - 1e-6)
    elif status == cp_model.UNKNOWN:
        bound_ns = max(0, math.ceil(solver.best_objective_bound - 1e-6))
    elif status == cp_model.INFEASIBLE:
        bound_bytes = problem.available_bytes + 1
        program.model.minimize(program.peak)
        solver = _solver(program, clock.seconds_left(deadline), seed, effort)
        status = solve_model(solver, program.model, clock)
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            orders.append(staged.compute_order(program.runs_again(solver.value)))
            least = math.ceil(solver.best_objective_bound - 1e-6) * program.unit
            bound_bytes = max(bound_bytes, least)
    # Any other status, such as that of a model with too large numbers, proves nothing.
    return Attempt(
        orders=tuple(orders),
        lower_bound_ns=bound_ns,
        lower_bound_bytes=bound_bytes,
        bound_class=bound_class,
    )


def _solver(program: Program, seconds: float, seed: int, effort: float) -> Any:
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    # One worker gives the same answer every time, and is faster here than several.
    solver.parameters.num_workers = 1
    solver.parameters.linearization_level = program.linearization_level
    solver.parameters.random_seed = seed
    solver.parameters.max_deterministic_time = effort
    solver.parameters.max_time_in_seconds = seconds
    return solver
