"""`exact`: Checkmate's integer program over the whole graph.

Jain et al., "Checkmate: Breaking the Memory Wall with Optimal Tensor Rematerialization" (MLSys
2020). Booleans say whether the op at place k runs in stage t (R) and whether a storage is kept into
stage t (S). Checkmate's third kind, FREE, is expressed by its opposite: from which place of a stage
on a storage is still needed. So the bytes of every run are one sum. S is about storages, as an op
may write several. CP-SAT solves the program, started from the best heuristic.
Guarantee: if it ends by itself, no plan in stages (see `staged`) recomputes less; if none fits,
none has a lower peak. If it is cut short, its bound holds for that class.
Complexity: n^2 booleans for R and S, n times the number of reads for what is needed, and n^2 sums
of up to n terms; NP-hard.
Weakness: some fifty ops take minutes, and it refuses programs of over 60,000 variables (some 150
ops). The order of first runs is the graph's, and no op runs twice in a stage, although that can be
worth it at small budgets.
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

BOUND_CLASS = "first runs in the graph's order, and between two of them each op at most once more"
_MAX_VARIABLES = 60_000  # some 150 ops; larger programs take too long to be of use


class StageProgram:
    """Variables and constraints, without the budget and the objective."""

    linearization_level = 2

    def __init__(self, staged: StagedGraph, clock: Clock | None = None) -> None:
        from ortools.sat.python import cp_model

        self.staged = staged
        num = staged.num
        self.unit = math.gcd(*staged.sizes, *staged.working_bytes) or 1
        size = [s // self.unit for s in staged.sizes]
        self.model: Any = cp_model.CpModel()
        self.run: dict[Run, Any] = {
            (t, k): self.model.new_bool_var("") for k, ts in enumerate(staged.again) for t in ts
        }
        self.keep: dict[tuple[int, int], Any] = {
            (t, s): self.model.new_bool_var("")
            for s, made in staged.made_at.items()
            for t in range(made + 1, num if staged.is_output[s] else staged.use_until[s] + 1)
        }
        self.needed: dict[tuple[int, int, int], Any] = {}
        most = sum(size) + max((0, *staged.working_bytes)) // self.unit
        self.peak = self.model.new_int_var(0, most, "")
        self._link()
        for t in range(num):
            if clock is not None:
                clock.check()
            self._need(t)
            self._count(t, size)

    def _runs(self, t: int, k: int) -> Any:
        """Whether place k runs in stage t: a variable, or a constant."""
        return 1 if t == k else self.run.get((t, k), 0)

    def _link(self) -> None:
        """What a run reads is made in its stage or kept into it; what is kept was in memory."""
        staged, model = self.staged, self.model
        for (t, s), keep in self.keep.items():
            if staged.is_output[s]:
                model.add(keep == 1)
                continue
            made = staged.made_at[s]
            before = 1 if t - 1 == made else self.keep[t - 1, s] + self._runs(t - 1, made)
            model.add(keep <= before)
            if (t, made) in self.run:
                # A storage that is recomputed need not be kept until then.
                model.add_bool_or(keep.negated(), self.run[t, made].negated())
        for t in range(staged.num):
            for k in self.in_stage(t):
                for s in staged.reads[k]:
                    made = staged.made_at[s]
                    at_hand = self.keep.get((t, s), 0) + self._runs(t, made)
                    model.add(at_hand >= self._runs(t, k))

    def in_stage(self, t: int) -> Iterator[int]:
        """Places that may run in stage t."""
        yield from (k for k in range(t) if (t, k) in self.run)
        yield t

    def _need(self, t: int) -> None:
        """Per storage and reader in stage t: whether it is needed from there on, or kept on."""
        staged, model = self.staged, self.model
        for s in staged.made_at:
            if staged.is_output[s] or staged.use_until[s] < t:
                continue
            later: Any = self.keep.get((t + 1, s), 0)
            for k in reversed(staged.readers[s]):
                if k > t or not (k == t or (t, k) in self.run):
                    continue
                needed = self.needed[t, s, k] = model.new_bool_var("")
                model.add(needed >= self._runs(t, k))
                model.add(needed >= later)
                later = needed

    def _count(self, t: int, size: list[int]) -> None:
        """Bytes while each op of stage t runs."""
        staged, model = self.staged, self.model
        # Per storage, the variable for it: kept into the stage, until its op's place has come.
        live = {s: self.keep[t, s] for s in staged.made_at if (t, s) in self.keep}
        later = {
            s: [k for k in staged.readers[s] if (t, s, k) in self.needed] for s in staged.made_at
        }
        places = list(self.in_stage(t))
        for k in places:
            runs = self._runs(t, k)
            for s, made in staged.made_at.items():
                if made < k and not staged.is_output[s]:
                    # Readers before k are done with it.
                    while later[s] and later[s][0] < k:
                        later[s].pop(0)
                    needed = self.needed[t, s, later[s][0]] if later[s] else None
                    if needed is None:
                        needed = self.keep.get((t + 1, s))
                    if needed is None:
                        live.pop(s, None)
                    else:
                        live[s] = needed
            own = sum(size[s] for s in staged.writes[k]) + staged.working_bytes[k] // self.unit
            held = sum(size[s] * v for s, v in live.items() if s not in staged.writes[k])
            model.add(held + own * runs <= self.peak)

    @property
    def cost_ns(self) -> Any:
        """Recompute time."""
        return sum(self.staged.runtime_ns[k] * run for (_, k), run in self.run.items())

    def runs_again(self, value: Any) -> set[Run]:
        """The runs of a solution."""
        return {run for run, variable in self.run.items() if value(variable)}

    def hint(self, again: set[Run]) -> None:
        """Start the search from a plan."""
        staged, kept = self.staged, self.staged.kept(again)
        for run, variable in self.run.items():
            self.model.add_hint(variable, run in again)
        for (t, s), variable in self.keep.items():
            self.model.add_hint(variable, staged.is_output[s] or s in kept[t])
        for (t, s, k), variable in self.needed.items():
            later = any(k <= r <= t and (r == t or (t, r) in again) for r in staged.readers[s])
            self.model.add_hint(variable, later or s in kept[t + 1])


def num_variables(staged: StagedGraph) -> int:
    """Size of the program, before it is made."""
    stages = [len(ts) for ts in staged.again]
    kept = sum(max(0, staged.use_until[s] - made) for s, made in staged.made_at.items())
    per_run = ((1 + num) * len(reads) for num, reads in zip(stages, staged.reads, strict=True))
    return sum(stages) + kept + sum(per_run)


def solve_exact(problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
    """Offer the plan of the program, and the heuristics that it started from.

    Raises:
        ValueError: The program would be too large to be of any use.
    """
    clock = session.clock
    deadline = clock.until(time_limit_s)
    staged = StagedGraph(session.facts)
    count = num_variables(staged)
    if count > _MAX_VARIABLES:
        raise ValueError(
            f"method 'exact' needs {count} variables for this graph of {staged.num} ops; it takes "
            f"at most {_MAX_VARIABLES} (some 150 ops): use 'ilp'. 'intervals' takes more, though "
            "its proofs are rare beyond some hundred ops"
        )
    found = heuristic_orders(problem, session, time_limit_s=time_limit_s / 4)
    try:
        program = StageProgram(staged, clock)
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
    )
