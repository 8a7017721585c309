"""Solves a graph file for a budget and formats the answer."""

from __future__ import annotations

import dataclasses
import json

from autockpt import progress
from autockpt.budget import parse_budget
from autockpt_solvers import (
    EVERY_PLAN,
    Instance,
    Method,
    Problem,
    Result,
    SolveStatus,
    baseline_schedule,
    read_instance,
    simulate,
    solve,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """A graph, its budget, and the answer.

    Attributes:
        instance: The graph.
        budget_bytes: The budget.
        baseline_peak_bytes: Peak if every operation runs once.
        result: The answer.
        time_limit_s: The time limit of the search.
    """

    instance: Instance
    budget_bytes: int
    baseline_peak_bytes: int
    result: Result
    time_limit_s: float = 60.0

    @property
    def increase_percent(self) -> float:
        """Extra time of the schedule, as a percentage of the time of all ops run once."""
        total_ns = self.instance.graph.total_runtime_ns
        return 100 * self.result.recompute_ns / total_ns if total_ns else 0.0

    @property
    def bound_percent(self) -> float:
        """The lower bound on `increase_percent`."""
        total_ns = self.instance.graph.total_runtime_ns
        return 100 * self.result.lower_bound_ns / total_ns if total_ns else 0.0

    def text(self) -> str:
        """Returns the answer as lines of text."""
        result = self.result
        share = self.budget_bytes / max(1, self.baseline_peak_bytes)
        lines = [
            f"status             {result.status.value}",
            f"method             {result.method}",
            f"budget             {self.budget_bytes} bytes ({share:.1%} of the baseline's peak)",
        ]
        if result.schedule is None:
            lines.append(f"why                {self._why()}")
        else:
            lines += [
                f"duration increase  {self.increase_percent:.3f}%",
                f"lower bound        {self.bound_percent:.3f}%",
                f"peak               {result.peak_bytes} bytes",
            ]
        lines.append(f"bounds hold for    {result.bound_class}")
        return "\n".join([*lines, f"seconds            {result.solve_time_s:.1f}"])

    def _why(self) -> str:
        """Returns why there is no plan, for which plans that is proven, and what may help."""
        result = self.result
        bound = result.lower_bound_bytes
        if result.status is SolveStatus.OUT_OF_TIME:
            return (
                f"the time limit of {self.time_limit_s:g} s ended the search; this method has "
                f"reached {result.minimum_peak_bytes} bytes by then, and it is proven that no plan "
                f"can be below {bound}: raise --time-limit or --budget"
            )
        if result.status is not SolveStatus.INFEASIBLE:
            return (
                f"this method reaches {result.minimum_peak_bytes} bytes; that none can be lower "
                f"is proven for {bound} bytes only: raise --budget or try another --method"
            )
        if result.bound_class == EVERY_PLAN:
            return f"proven: no plan can be below {bound} bytes"
        return (
            f"proven: no plan of the class below can be below {bound} bytes; this method reaches "
            f"{result.minimum_peak_bytes}"
        )

    def json(self) -> str:
        """Returns the answer as JSON.

        Plans of `bound_class` recompute at least `lower_bound_ns` and need `lower_bound_bytes`;
        `peak_bytes` is the peak of the schedule, or the lowest peak found.
        """
        result = self.result
        return json.dumps(
            {
                "status": result.status.value,
                "method": result.method,
                "budget_bytes": self.budget_bytes,
                "baseline_peak_bytes": self.baseline_peak_bytes,
                "peak_bytes": result.peak_bytes,
                "lower_bound_bytes": result.lower_bound_bytes,
                "recompute_ns": result.recompute_ns,
                "lower_bound_ns": result.lower_bound_ns,
                "bound_class": result.bound_class,
                "duration_increase_percent": self.increase_percent,
                "solve_time_s": result.solve_time_s,
            },
            indent=1,
        )

    def steps(self) -> str:
        """Returns the schedule as a JSON list of `["compute", op]` and `["free", storage]`."""
        assert self.result.schedule is not None
        return json.dumps(self.instance.steps(self.result.schedule))


def solve_file(text: str, budget: str, *, method: str | Method, time_limit_s: float) -> Solved:
    """Reads a graph and solves it.

    Args:
        text: The file's text.
        budget: Bytes, `"8GB"`, or a percentage of the baseline's peak.
        method: A solver's method, or its name.
        time_limit_s: Time limit of the search.

    Raises:
        ValueError: If the text is not a graph, or an argument is unknown.
    """
    instance = read_instance(text)
    graph = instance.graph
    baseline_peak_bytes = simulate(graph, baseline_schedule(graph)).peak_bytes
    budget_bytes = parse_budget(budget).resolve(baseline_peak_bytes)
    problem = Problem(graph=graph, budget_bytes=budget_bytes)
    watch = progress.search("solving", limit_s=time_limit_s, step_ns=graph.total_runtime_ns)
    return Solved(
        instance=instance,
        budget_bytes=budget_bytes,
        baseline_peak_bytes=baseline_peak_bytes,
        result=solve(problem, method=method, time_limit_s=time_limit_s, watch=watch),
        time_limit_s=time_limit_s,
    )
