"""The least recomputation with memory counted at a few moments only: a bound for every plan.

A moment is the first run of an op, its pivot. The pivots form a chain: each needs the one before.
So their first runs come in that order in every plan, and split it into stages. Before a moment,
every op that the pivot needs has run; the pivot, and what needs it, has not. So a value that is
written before and read after is in memory at the moment, or its op runs again in a later stage, and
so on with what that op reads. What is in memory, and what the pivot writes, must fit. Ops that
neither need a pivot nor are needed by it may come before or after it.

The relaxation asks nothing else of a plan. So its bound holds for every plan, also for one that
runs ops in another order, or an op many times. CP-SAT solves it, and the bound holds even if that
is cut short.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autockpt_solvers.clock import Clock
from autockpt_solvers.cp_sat import solve_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.graph import ComputeGraph


class Ancestry:
    """Per op, as bits of an integer: what must run before it, and what must run after it."""

    def __init__(self, graph: ComputeGraph) -> None:
        num = len(graph.ops)
        self.before = [0] * num
        self.after = [0] * num
        required = sum(1 << k for k, needed in enumerate(graph.is_required) if needed)
        for k, op in enumerate(graph.ops):
            self.before[k] = required if op.is_backward else 0
            for p in {graph.producer[s] for s in op.reads}:
                self.before[k] |= self.before[p] | 1 << p
        backward = ((1 << num) - 1) >> graph.num_forward << graph.num_forward
        for k in range(num - 1, -1, -1):
            self.after[k] = backward if graph.is_required[k] else 0
            for r in {r for s in graph.ops[k].writes for r in graph.readers[s]}:
                self.after[k] |= self.after[r] | 1 << r

    def precedes(self, first: int, second: int) -> bool:
        """Whether `first` must run before `second` does."""
        return bool(self.before[second] >> first & 1)

    def are_ordered(self, one: int, other: int) -> bool:
        """Whether one of them must run before the other."""
        return self.precedes(one, other) or self.precedes(other, one)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A solution: what runs between the moments, and what is held at them.

    Attributes:
        firsts: Per stage, the ops that run for the first time, the pivot first.
        again: Per stage, the ops that run, and have run in an earlier one.
        held: Per stage, the storages in memory when it begins.
    """

    firsts: tuple[tuple[int, ...], ...]
    again: tuple[tuple[int, ...], ...]
    held: tuple[frozenset[int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxed:
    """The result of solving the relaxation.

    Attributes:
        is_infeasible: Whether no plan fits.
        bound_ns: No plan that fits recomputes less.
        solution: The best one found, if any.
        effort: Deterministic time that it took, in about seconds.
    """

    is_infeasible: bool
    bound_ns: int
    solution: Solution | None
    effort: float


# A literal of the model, or its known value.
_Literal = Any


class Relaxation:
    """Variables and constraints for some pivots.

    Stage 0 ends with the first moment, stage i begins with the i-th.

    Args:
        graph: The graph; ops that no output needs are left out.
        ancestry: Its ancestry.
        budget: Bytes that the graph may use.
        pivots: Ops that are needed, in order, each of which needs the one before.
        clock: The clock of the search, if it is a part of one.

    Raises:
        OutOfTime: The time is over before the model is made.
    """

    def __init__(
        self,
        graph: ComputeGraph,
        ancestry: Ancestry,
        budget: int,
        pivots: Sequence[int],
        clock: Clock | None = None,
    ) -> None:
        from ortools.sat.python import cp_model

        self.clock = clock or Clock()
        self.graph = graph
        self.budget = budget
        self.pivots = pivots
        self.num_stages = len(pivots) + 1
        self.model: Any = cp_model.CpModel()
        self.ops = [k for k, needed in enumerate(graph.is_needed) if needed]
        # Per op and stage: whether it has run when the stage begins; one entry more for the end.
        self.done: dict[int, list[_Literal]] = {}
        # Per op and stage: whether it runs in it.
        self.runs: dict[int, list[_Literal]] = {}
        # Per storage and stage: whether it is live when the stage begins.
        self.held: dict[int, list[_Literal]] = {}
        self._order(ancestry)
        for op in self.ops:
            self.clock.check()
            self._run(op)
        for op in self.ops:
            for storage in graph.ops[op].writes:
                self._hold(storage)
        for op in self.ops:
            self.clock.check()
            self._read(op)
        for stage, pivot in enumerate(pivots, start=1):
            self._fit(stage, pivot)
        self.model.minimize(self._cost_ns())

    def _bool(self) -> _Literal:
        return self.model.new_bool_var("")

    def _clause(self, *literals: _Literal) -> None:
        """At least one of them is true."""
        if not any(literal is True for literal in literals):
            self.model.add_bool_or([x for x in literals if x is not False])

    @staticmethod
    def _not(literal: _Literal) -> _Literal:
        return not literal if isinstance(literal, bool) else literal.negated()

    def _order(self, ancestry: Ancestry) -> None:
        """First runs come in an order that the reads allow, those of pivots at the moments."""
        for op in self.ops:
            self.clock.check()
            done: list[_Literal] = [False]
            for pivot in self.pivots:
                if ancestry.precedes(op, pivot):
                    done.append(True)
                elif op == pivot or ancestry.precedes(pivot, op):
                    done.append(False)
                else:
                    done.append(self._bool())
            done.append(True)
            self.done[op] = done
            for earlier, later in itertools.pairwise(done):
                self._clause(self._not(earlier), later)
            for storage in self.graph.ops[op].reads:
                before = self.done[self.graph.producer[storage]]
                for mine, its in zip(done, before, strict=True):
                    self._clause(self._not(mine), its)

    def _run(self, op: int) -> None:
        """An op runs in the stage of its first run, may run in later ones, not in earlier ones."""
        done = self.done[op]
        node = self.graph.ops[op]
        is_once = not node.recomputable or any(self.graph.is_output[s] for s in node.writes)
        runs: list[_Literal] = []
        for before, after in itertools.pairwise(done):
            if after is False or (before is True and is_once):
                runs.append(False)
            elif before is False and after is True:
                runs.append(True)
            else:
                here = self._bool()
                self._clause(self._not(here), after)
                self._clause(before, self._not(after), here)
                if is_once:
                    self._clause(self._not(before), self._not(here))
                runs.append(here)
        self.runs[op] = runs

    def _hold(self, storage: int) -> None:
        """A storage is live at a moment only if it was at the one before, or was written since."""
        op = self.graph.producer[storage]
        if self.graph.is_output[storage]:
            self.held[storage] = self.done[op][:-1]
            return
        held: list[_Literal] = [False]
        for stage in range(1, self.num_stages):
            if self.done[op][stage] is False:
                held.append(False)
                continue
            here = self._bool()
            self._clause(self._not(here), held[stage - 1], self.runs[op][stage - 1])
            held.append(here)
        self.held[storage] = held

    def _read(self, op: int) -> None:
        """What an op reads is live when its stage begins, or is written within it."""
        for stage, here in enumerate(self.runs[op]):
            for storage in self.graph.ops[op].reads:
                made = self.runs[self.graph.producer[storage]][stage]
                self._clause(self._not(here), self.held[storage][stage], made)

    def _fit(self, stage: int, pivot: int) -> None:
        """At a moment, the pivot's reads are live, and what is live and what it writes fits."""
        graph = self.graph
        node = graph.ops[pivot]
        for storage in node.reads:
            self._clause(self.held[storage][stage])
        free = self.budget - graph.working_bytes[pivot] - sum(graph.size(s) for s in node.writes)
        live = [(graph.size(s), held[stage]) for s, held in self.held.items()]
        live = [(size, held) for size, held in live if size and held is not False]
        unit = math.gcd(*(size for size, _ in live)) or 1
        self.model.add(sum(size // unit * held for size, held in live) <= free // unit)

    def _cost_ns(self) -> Any:
        total = sum(
            self.graph.ops[op].runtime_ns * here
            for op, runs in self.runs.items()
            for here in runs
            if here is not False
        )
        return total - sum(self.graph.ops[op].runtime_ns for op in self.ops)

    def solve(self, *, time_limit_s: float, effort: float, seed: int) -> Relaxed:
        """Solve it.

        Args:
            time_limit_s: Ends the search.
            effort: Ends it too: deterministic time, in about seconds.
            seed: Random seed.
        """
        from ortools.sat.python import cp_model

        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.linearization_level = 2
        solver.parameters.random_seed = seed
        solver.parameters.max_deterministic_time = effort
        solver.parameters.max_time_in_seconds = max(0.05, time_limit_s)
        status = solve_model(solver, self.model, self.clock)
        spent = float(solver.response_proto.deterministic_time)
        if status == cp_model.INFEASIBLE:
            return Relaxed(is_infeasible=True, bound_ns=0, solution=None, effort=spent)
        bound = max(0, math.ceil(solver.best_objective_bound - 1e-6))
        is_solved = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
        solution = self._solution(solver) if is_solved else None
        return Relaxed(is_infeasible=False, bound_ns=bound, solution=solution, effort=spent)

    def _solution(self, solver: Any) -> Solution:
        def value(literal: _Literal) -> bool:
            return literal if isinstance(literal, bool) else bool(solver.value(literal))

        done = {op: [value(x) for x in row] for op, row in self.done.items()}
        runs = {op: [value(x) for x in row] for op, row in self.runs.items()}
        stages = range(self.num_stages)
        firsts = [[op for op in self.ops if done[op][t + 1] and not done[op][t]] for t in stages]
        for ops, pivot in zip(firsts[1:], self.pivots, strict=True):
            ops.remove(pivot)
            ops.insert(0, pivot)
        return Solution(
            firsts=tuple(tuple(ops) for ops in firsts),
            again=tuple(
                tuple(op for op in self.ops if runs[op][t] and done[op][t]) for t in stages
            ),
            held=tuple(
                frozenset(s for s, row in self.held.items() if value(row[t])) for t in stages
            ),
        )
