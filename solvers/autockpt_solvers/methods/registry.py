"""What `solve` has to know about each method: one record per name.

To add a method, add its record here and its page to `docs/methods/`. The tests hold every method of
this table to the same laws.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

from autockpt_solvers.bounds.recomputation import any_plan_bound_ns, lower_bound_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from autockpt_solvers.session import BuiltIn


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One method.

    Attributes:
        module: Its module below `autockpt_solvers.methods`.
        function: Its function in that module, a `BuiltIn`.
        is_search: Whether its plans depend on the budget and come from a search, which may by
            chance find a worse plan for a larger budget. It is asked level by level.
        may_reorder: Whether `solve` may first put the backward ops in an order that needs less
            memory. Heuristics then search in the graph's own order too.
        credits: The method that the result names if those heuristics find the best plan; empty for
            this one.
        bound_ns: A lower bound on the recompute time of its plans. A search stops when a plan meets
            it.
        descends: Whether its least budget is found by a descent (see `search.least`), the same for
            every budget.
        anneals: Whether `local` continues its search on small graphs.
        minimises_peak: Whether it searches for the lowest peak if nothing fits the budget.
    """

    module: str
    function: str
    is_search: bool = False
    may_reorder: bool = False
    credits: str = ""
    bound_ns: Callable[..., int] = lower_bound_ns
    descends: bool = False
    anneals: bool = False
    minimises_peak: bool = False

    @property
    def is_in_order(self) -> bool:
        """Whether its plans run each backward op once, in the graph's order."""
        return self.bound_ns is lower_bound_ns and not self.minimises_peak

    def load(self) -> BuiltIn:
        """Import the method; not before it is asked, since OR-Tools alone takes 0.3 s."""
        module = import_module(f"autockpt_solvers.methods.{self.module}")
        return cast("BuiltIn", getattr(module, self.function))


METHODS = {
    "auto": Record(
        module="auto",
        function="solve_auto",
        is_search=True,
        may_reorder=True,
        descends=True,
        anneals=True,
        credits="ilp",
    ),
    "none": Record(module="none", function="solve_none"),
    "full": Record(module="reference.full", function="solve_full"),
    "sqrt": Record(module="reference.uniform", function="solve_sqrt"),
    "uniform": Record(module="reference.uniform", function="solve_uniform"),
    "revolve": Record(module="revolve", function="solve_revolve"),
    "chain": Record(module="reference.chain", function="solve_chain", is_search=True),
    "greedy": Record(module="greedy", function="solve_greedy", is_search=True),
    "mincut": Record(module="mincut", function="solve_mincut", is_search=True),
    # The integer programs may run backward ops again.
    "exact": Record(module="reference.exact", function="solve_exact", minimises_peak=True),
    "intervals": Record(
        module="any_order.intervals", function="solve_intervals", minimises_peak=True
    ),
    "ilp": Record(
        module="ilp", function="solve_ilp", is_search=True, may_reorder=True, descends=True
    ),
    "local": Record(module="local", function="solve_local", is_search=True),
    # Its plans may run backward ops in another order.
    "moments": Record(
        module="any_order.moments",
        function="solve_moments",
        is_search=True,
        bound_ns=any_plan_bound_ns,
    ),
}
