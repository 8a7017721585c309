"""`intervals`: Moccasin's constraint program over retention intervals.

Bartan et al., "Moccasin: Efficient Tensor Rematerialization for Neural Networks", ICML 2023. Every
op has up to two runs, and each run has an interval per storage that it writes, from the run to its
last reader. Runs are at events of the staged order (see `staged`), so a start is one integer
variable instead of a boolean per stage. A cumulative constraint limits the bytes, and every read
must lie in an interval. CP-SAT solves the program, started from the best heuristic.
Guarantee: if it ends by itself, no plan in stages that runs each op at most twice recomputes less;
if none fits, none has a lower peak. If it is cut short, its bound holds for that class.
Complexity: a few integer variables per op and one boolean per read and run; NP-hard.
Weakness: its relaxation is weak, so proofs are rare beyond some hundred ops; it refuses graphs of
more than 2,000 ops. A third run of an op, and another order of first runs, are outside its class.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.clock import OutOfTime
from autockpt_solvers.methods.any_order.program import minimise
from autockpt_solvers.methods.any_order.staged import StagedGraph, best_of, heuristic_orders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autockpt_solvers.clock import Clock
    from autockpt_solvers.methods.any_order.staged import Run
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import Session

BOUND_CLASS = "first runs in the graph's order, and each op at most twice"
_MAX_OPS = 2_000  # larger programs take too long to be of use


def event(stage: int, place: int) -> int:
    """The time of a run: stages one after the other, places in their order within a stage."""
    return stage * (stage + 1) // 2 + place


class IntervalProgram:
    """Variables and constraints, without the budget and the objective."""

    linearization_level = 1

    def __init__(self, staged: StagedGraph, clock: Clock | None = None) -> None:
        from ortools.sat.python import cp_model

        self.staged = staged
        num = staged.num
        self.unit = math.gcd(*staged.sizes, *staged.working_bytes) or 1
        self.model: Any = cp_model.CpModel()
        # Per place that may run again: when, and whether it does.
        self.again: dict[int, tuple[Any, Any]] = {}
        for k, stages in enumerate(staged.again):
            if stages:
                events = cp_model.Domain.from_values([event(t, k) for t in stages])
                start = self.model.new_int_var_from_domain(events, "")
                self.again[k] = (start, self.model.new_bool_var(""))
        most = sum(staged.sizes) + max((0, *staged.working_bytes))
        self.peak = self.model.new_int_var(0, most // self.unit, "")
        self.over = event(num, 0)
        # Per storage and run of its op: the last event at which it is retained.
        self.ends: dict[tuple[int, int], Any] = {}
        self._retain()
        for k in range(num):
            if clock is not None:
                clock.check()
            for start, active in self._runs(k):
                for s in staged.reads[k]:
                    self._find(s, start, active)

    def _runs(self, k: int) -> Iterator[tuple[Any, Any]]:
        """Start of each run of a place, and whether it happens."""
        yield event(k, k), True
        if k in self.again:
            yield self.again[k]

    def _retain(self) -> None:
        staged, model = self.staged, self.model
        intervals, demands = [], []
        for k in range(staged.num):
            for number, (start, active) in enumerate(self._runs(k)):
                over = [s for s in staged.reads[k] if s in staged.overwritten]
                workspace_bytes = staged.working_bytes[k] + sum(staged.sizes[s] for s in over)
                if workspace_bytes:
                    intervals.append(
                        model.new_optional_fixed_size_interval_var(start, 1, active, "")
                    )
                    demands.append(workspace_bytes // self.unit)
                for s in staged.writes[k]:
                    last = event(max(staged.use_until[s], k), staged.num)
                    if staged.is_output[s]:
                        last = self.over
                    end = model.new_int_var(event(k, k), min(last, self.over), "")
                    if staged.is_output[s]:
                        model.add(end == self.over)
                    self.ends[s, number] = end
                    if number == 0 and k in self.again:
                        # The second run makes it anew; the first instance is gone by then.
                        again, twice = self.again[k]
                        model.add(end < again).only_enforce_if(twice)
                    if staged.sizes[s]:
                        # Its memory becomes another's when its reader overwrites it.
                        stop = end if s in staged.overwritten else end + 1
                        size = model.new_int_var(1, self.over + 1, "")
                        intervals.append(
                            model.new_optional_interval_var(start, size, stop, active, "")
                        )
                        demands.append(staged.sizes[s] // self.unit)
        model.add_cumulative(intervals, demands, self.peak)

    def _find(self, s: int, time: Any, active: Any) -> None:
        """What a run reads is retained when it runs."""
        model = self.model
        if self.staged.is_output[s]:
            return
        found = []
        for number, (start, made) in enumerate(self._runs(self.staged.made_at[s])):
            here = model.new_bool_var("")
            if made is not True:
                model.add_implication(here, made)
            model.add(start < time).only_enforce_if(here)
            model.add(time <= self.ends[s, number]).only_enforce_if(here)
            found.append(here)
        model.add_bool_or(*found, *(() if active is True else (active.negated(),)))

    @property
    def cost_ns(self) -> Any:
        """Recompute time."""
        return sum(self.staged.runtime_ns[k] * twice for k, (_, twice) in self.again.items())

    def runs_again(self, value: Any) -> set[Run]:
        """The runs of a solution."""
        stage = {event(t, k): t for k in self.again for t in self.staged.again[k]}
        return {
            (stage[value(start)], k) for k, (start, twice) in self.again.items() if value(twice)
        }

    def hint(self, again: set[Run]) -> None:
        """Start the search from a plan; of several further runs of an op, the first counts."""
        second: dict[int, int] = {}
        for t, k in sorted(again):
            second.setdefault(k, t)
        for k, (start, twice) in self.again.items():
            self.model.add_hint(twice, k in second)
            self.model.add_hint(start, event(second.get(k, self.staged.again[k][0]), k))
        number: dict[int, int] = {}
        last: dict[tuple[int, int], int] = {}
        staged = self.staged
        runs = sorted([*((t, t) for t in range(staged.num)), *((t, k) for k, t in second.items())])
        for t, k in runs:
            for s in staged.reads[k]:
                last[s, number[s]] = event(t, k)
            for s in staged.writes[k]:
                number[s] = number.get(s, -1) + 1
                last[s, number[s]] = event(t, k)
        for key, end in self.ends.items():
            if key in last and not staged.is_output[key[0]]:
                self.model.add_hint(end, last[key])


def solve_intervals(
    problem: Problem, session: Session, *, time_limit_s: float, effort: float = math.inf
) -> Attempt:
    """Offer the plan of the program, and the heuristics that it started from.

    Args:
        problem: The problem.
        session: The session of its graph.
        time_limit_s: Ends the search.
        effort: Ends the search too: deterministic time, in about seconds.

    Raises:
        ValueError: The program would be too large to be of any use.
    """
    clock = session.clock
    deadline = clock.until(time_limit_s)
    staged = StagedGraph(session.facts)
    if staged.num > _MAX_OPS:
        raise ValueError(
            f"method 'intervals' takes graphs of at most {_MAX_OPS} ops, and this one has "
            f"{staged.num}: use 'ilp'"
        )
    found = heuristic_orders(problem, session, time_limit_s=time_limit_s / 4)
    try:
        program = IntervalProgram(staged, clock)
    except OutOfTime:
        return Attempt(orders=tuple(found))
    program.hint(staged.runs_again(best_of(problem, session.facts, found)))
    return minimise(
        problem,
        staged,
        program,
        found,
        bound_class=BOUND_CLASS,
        deadline=deadline,
        clock=clock,
        seed=session.seed,
        effort=effort,
    )
