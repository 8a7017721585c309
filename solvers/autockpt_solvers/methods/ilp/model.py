"""The integer program of a window, for CP-SAT.

The window's backward is a row of places: before each backward op that reads the window, one place
per op that may have to run again for it, in order, then the backward op itself (as in Checkmate,
Jain et al. 2020, but only within a window). Booleans say whether an op runs in its place, and
whether a storage is in memory at it. The peak bounds the memory of every place. What is in memory
at the first place is kept by the forward pass. The program is exact for the window, given that
backward ops run once and in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ortools.sat.python import cp_model

from autockpt_solvers.clock import Clock
from autockpt_solvers.cp_sat import solve_model
from autockpt_solvers.methods.ilp.option import Option, measure

if TYPE_CHECKING:
    from autockpt_solvers.methods.ilp.window import WindowKind

_TIME_UNITS = 1 << 15  # of a window's time; CP-SAT is slow with large coefficients


@dataclass(frozen=True, slots=True)
class Answer:
    """What a solve found.

    Attributes:
        option: The best option, or None.
        effort: Deterministic time that it took.
    """

    option: Option | None
    effort: float


class WindowModel:
    """Variables and constraints of one kind of window; each solve sets limits and an objective."""

    def __init__(self, kind: WindowKind) -> None:
        self.kind = kind
        self.producer = kind.producer
        total = sum(kind.sizes) + max((s.during_bytes for s in kind.backward), default=0)
        self.time_unit = max(1, sum(op.runtime_ns for op in kind.ops) // _TIME_UNITS)
        self.model = cp_model.CpModel()
        self.peak = self.model.new_int_var(0, 4 * total, "")
        self._lay_places()
        self._add_kept()
        self._add_places()
        self._add_memory()
        self._add_forward()
        self.num_variables = len(self.model.proto.variables)

    def _lay_places(self) -> None:
        """Places (backward op, op), op -1 for the backward op itself; last use of each storage."""
        kind = self.kind
        self.use_until: dict[int, int] = {}
        self.places: list[tuple[int, int]] = []
        previous_reads = True
        for t, reader in enumerate(kind.backward):
            ancestors: set[int] = set()
            for s in reader.reads:
                self.use_until[s] = t
            stack = list(reader.reads) if reader.may_recompute else []
            while stack:
                op = self.producer[stack.pop()]
                if op in ancestors or not (kind.ops[op].rerunnable or kind.ops[op].fresh):
                    continue
                ancestors.add(op)
                for s in kind.ops[op].reads:
                    self.use_until[s] = t
                    stack.append(s)
            if not reader.reads and not previous_reads:
                # Nothing can change between two that read nothing of the window: one for both.
                self.quiet[-1] = max(self.quiet[-1], reader.during_bytes)
                continue
            if t == 0:
                self.quiet: list[int] = []
            self.places += [(t, op) for op in sorted(ancestors)]
            self.quiet += [0] * len(ancestors)
            self.places.append((t, -1))
            self.quiet.append(reader.during_bytes)
            previous_reads = bool(reader.reads)

    def _add_kept(self) -> None:
        """Kept storages come from the forward pass; ops only the backward needs may run there."""
        kind, model = self.kind, self.model
        self.keep: dict[int, cp_model.IntVar | int] = {
            s: 1 if s in kind.forced else model.new_bool_var("") for s in self.use_until
        }
        self.early: dict[int, cp_model.IntVar] = {
            k: model.new_bool_var("") for k, op in enumerate(kind.ops) if op.fresh
        }
        for k, early in self.early.items():
            for s in kind.ops[k].writes:
                if s in kind.forced:
                    model.add(early == 1)
                elif s in self.keep:
                    model.add(early >= self.keep[s])
            for s in kind.ops[k].reads:
                if self.producer[s] in self.early:
                    model.add(self.early[self.producer[s]] >= early)
        forced = sum(kind.sizes[s] for s in kind.forced if s not in self.keep)
        self.kept_bytes = forced + sum(kind.sizes[s] * keep for s, keep in self.keep.items())

    def _add_places(self) -> None:
        """A storage is held if the place before held or wrote it; a run holds its reads."""
        kind, model = self.kind, self.model
        self.run: dict[int, cp_model.IntVar] = {
            q: model.new_bool_var("") for q, (_, op) in enumerate(self.places) if op >= 0
        }
        self.held: list[dict[int, cp_model.IntVar]] = []
        for q, (t, op) in enumerate(self.places):
            now = {s: model.new_bool_var("") for s, end in self.use_until.items() if t <= end}
            made_by = self.places[q - 1][1] if q else -1
            for s, held in now.items():
                if q == 0:
                    model.add_implication(held, self.keep[s]) if s not in kind.forced else None
                elif made_by >= 0 and s in kind.ops[made_by].writes:
                    model.add_bool_or(held.negated(), self.held[-1][s], self.run[q - 1])
                else:
                    model.add_implication(held, self.held[-1][s])
            if op >= 0:
                for s in kind.ops[op].reads:
                    model.add_implication(self.run[q], now[s])
            else:
                for s in kind.backward[t].reads:
                    model.add(now[s] == 1)
            if made_by >= 0:
                # A run that leaves nothing in memory is useless.
                made = [now[s] for s in kind.ops[made_by].writes if s in now]
                model.add_bool_or(self.run[q - 1].negated(), *made)
            self.held.append(now)
        for k, early in self.early.items():
            if not kind.ops[k].rerunnable:
                runs = [run for q, run in self.run.items() if self.places[q][1] == k]
                model.add(early + sum(runs) <= 1)

    def _add_memory(self) -> None:
        """The peak is at least what is held, written and otherwise in use in every place."""
        kind = self.kind
        for q, (t, op) in enumerate(self.places):
            held = sum(kind.sizes[s] * v for s, v in self.held[q].items())
            if op >= 0:
                made = sum(kind.sizes[s] for s in kind.ops[op].writes)
                made += kind.ops[op].working_bytes
                before = kind.backward[t].before_bytes
                self.model.add(held + made * self.run[q] + before <= self.peak)
            else:
                self.model.add(held + self.quiet[q] <= self.peak)

    def _add_forward(self) -> None:
        """Rows of the forward pass: a constant, and the kept storages that add to it."""
        kind = self.kind
        last = [-1] * len(kind.sizes)
        for k, op in enumerate(kind.ops):
            for s in (*op.writes, *op.reads) if not op.fresh else ():
                last[s] = k
        for s in kind.lasting:
            last[s] = len(kind.ops)
        self.forward_rows: list[tuple[int, list[int]]] = []
        highest = -1
        for k in range(len(kind.ops) - 1, -1, -1):
            op = kind.ops[k]
            born = [s for s in range(len(kind.sizes)) if self.producer[s] <= k]
            constant = op.working_bytes + op.transient_bytes
            constant += sum(kind.sizes[s] for s in born if last[s] >= k)
            # A later row with a higher constant has every kept storage of this one: it is enough.
            if constant > highest:
                highest = constant
                self.forward_rows.append((constant, [s for s in born if last[s] < k]))

    def solve(
        self,
        *,
        kept_limit: int,
        peak_limit: int,
        forward_limit: int,
        hint: Option | None = None,
        minimise_peak: bool = False,
        effort: float = 1.0,
        seconds: float = 10.0,
        seed: int = 0,
        clock: Clock | None = None,
    ) -> Answer:
        """Minimise time, or the peak, within limits.

        Args:
            kept_limit: Most bytes kept.
            peak_limit: Highest peak of the backward.
            forward_limit: Highest peak of the forward pass.
            hint: An option to start from.
            minimise_peak: Minimise that peak instead.
            effort: Deterministic time, in about seconds.
            seconds: Wall-clock limit, the last resort.
            seed: Random seed.
            clock: The clock of the search, if it is a part of one.

        Returns:
            The best option.
        """
        model = self.model.clone()
        model.add(self.kept_bytes <= kept_limit)
        model.add(self.peak <= max(0, peak_limit))
        for constant, kept in self.forward_rows:
            extra = sum(self.kind.sizes[s] * self.keep[s] for s in kept if s in self.keep)
            free = forward_limit - constant
            if free < 0:
                return Answer(None, 0.0)
            model.add(extra <= free)
        runtime = [op.runtime_ns // self.time_unit for op in self.kind.ops]
        cost = sum(runtime[self.places[q][1]] * run for q, run in self.run.items())
        cost += sum(runtime[k] * early for k, early in self.early.items())
        if minimise_peak:
            model.minimize(self.peak)
        else:
            model.minimize(cost)
        if hint is not None:
            self._hint(model, hint)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = seed
        solver.parameters.max_deterministic_time = effort
        # The programs are small and many: symmetries and probing cost more than they save.
        solver.parameters.symmetry_level = 0
        solver.parameters.cp_model_probing_level = 0
        solver.parameters.max_time_in_seconds = seconds
        status = solve_model(solver, model, clock or Clock())
        spent = solver.response_proto.deterministic_time
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return Answer(None, spent)
        return Answer(self._read(solver), spent)

    def _read(self, solver: cp_model.CpSolver) -> Option:
        tail: list[int] = []
        runs: dict[int, list[int]] = {}
        for q, run in self.run.items():
            if solver.boolean_value(run):
                runs.setdefault(self.places[q][0], []).append(self.places[q][1])
        for t in range(len(self.kind.backward)):
            tail += runs.get(t, [])
            tail.append(-1 - t)
        early = {k for k, var in self.early.items() if solver.boolean_value(var)}
        return measure(self.kind, early, tail)

    def _hint(self, model: cp_model.CpModel, option: Option) -> None:
        """Hint the runs of an option; the rest follows from them."""
        reader = 0
        ran: set[tuple[int, int]] = set()
        for step in option.tail:
            if step < 0:
                reader = -step
            else:
                ran.add((reader, step))
        for q, run in self.run.items():
            model.add_hint(run, self.places[q] in ran)
        for k, early in self.early.items():
            model.add_hint(early, k in option.early)
