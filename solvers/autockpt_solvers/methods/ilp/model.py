"""The integer program of a window, for CP-SAT.

The turn is a row of slots: before each backward op that reads the window, one slot per op that
may have to run again for it, in order, then the backward op itself (as the advancing frontier of
Checkmate, Jain et al. 2020, but only within a window). Booleans say whether an op runs in its
slot and whether a storage is held at it. Every slot's memory is bounded by the turn's peak, and
what is held at the first slot comes from the bytes kept. It is exact for the window, given that
backward ops run once and in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ortools.sat.python import cp_model

from autockpt_solvers.methods.ilp.option import Option, replay

if TYPE_CHECKING:
    from autockpt_solvers.methods.ilp.window import WindowKind

_TIME_STEPS = 1 << 15


@dataclass(frozen=True, slots=True)
class Answer:
    """What a solve found.

    Attributes:
        option: The best option, or None.
        bound_ns: No option within the limits costs less; infinite when there is none.
        effort: Deterministic time it took.
    """

    option: Option | None
    bound_ns: float
    effort: float


class WindowModel:
    """Variables and constraints of one window kind; limits and objective are set per solve."""

    def __init__(self, kind: WindowKind) -> None:
        self.kind = kind
        self.producer = kind.producer
        total = sum(kind.sizes) + max((s.during_bytes for s in kind.stages), default=0)
        self.time_unit = max(1, sum(op.runtime_ns for op in kind.ops) // _TIME_STEPS)
        self.model = cp_model.CpModel()
        self.peak = self.model.new_int_var(0, 4 * total, "")
        self._lay_slots()
        self._add_kept()
        self._add_slots()
        self._add_memory()
        self._add_forward()
        self.num_variables = len(self.model.proto.variables)

    def _lay_slots(self) -> None:
        """Slots (stage, op), op -1 for the stage itself; and how long each storage is of use."""
        kind = self.kind
        self.use_until: dict[int, int] = {}
        self.slots: list[tuple[int, int]] = []
        previous_reads = True
        for t, stage in enumerate(kind.stages):
            ancestors: set[int] = set()
            for s in stage.reads:
                self.use_until[s] = t
            stack = list(stage.reads) if stage.open else []
            while stack:
                op = self.producer[stack.pop()]
                if op in ancestors or not (kind.ops[op].rerunnable or kind.ops[op].fresh):
                    continue
                ancestors.add(op)
                for s in kind.ops[op].reads:
                    self.use_until[s] = t
                    stack.append(s)
            if not stage.reads and not previous_reads:
                # Nothing can change between two stages that read nothing here: one slot for both.
                self.quiet[-1] = max(self.quiet[-1], stage.during_bytes)
                continue
            if t == 0:
                self.quiet: list[int] = []
            self.slots += [(t, op) for op in sorted(ancestors)]
            self.quiet += [0] * len(ancestors)
            self.slots.append((t, -1))
            self.quiet.append(stage.during_bytes)
            previous_reads = bool(stage.reads)

    def _add_kept(self) -> None:
        """Kept storages come from the forward pass; ops only the backward needs must run there."""
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

    def _add_slots(self) -> None:
        """A storage is held if it was held or made in the slot before; a run holds its reads."""
        kind, model = self.kind, self.model
        self.run: dict[int, cp_model.IntVar] = {
            q: model.new_bool_var("") for q, (_, op) in enumerate(self.slots) if op >= 0
        }
        self.held: list[dict[int, cp_model.IntVar]] = []
        for q, (t, op) in enumerate(self.slots):
            now = {s: model.new_bool_var("") for s, end in self.use_until.items() if t <= end}
            made_by = self.slots[q - 1][1] if q else -1
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
                for s in kind.stages[t].reads:
                    model.add(now[s] == 1)
            if made_by >= 0:
                # A run that leaves nothing held was for nothing.
                made = [now[s] for s in kind.ops[made_by].writes if s in now]
                model.add_bool_or(self.run[q - 1].negated(), *made)
            self.held.append(now)
        for k, early in self.early.items():
            if not kind.ops[k].rerunnable:
                runs = [run for q, run in self.run.items() if self.slots[q][1] == k]
                model.add(early + sum(runs) <= 1)

    def _add_memory(self) -> None:
        """The peak is at least what is held, made and standing in every slot."""
        kind = self.kind
        for q, (t, op) in enumerate(self.slots):
            held = sum(kind.sizes[s] * v for s, v in self.held[q].items())
            if op >= 0:
                made = sum(kind.sizes[s] for s in kind.ops[op].writes)
                made += kind.ops[op].working_bytes
                standing = kind.stages[t].before_bytes
                self.model.add(held + made * self.run[q] + standing <= self.peak)
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
    ) -> Answer:
        """Minimises time, or the peak, within limits.

        Args:
            kept_limit: Most bytes kept.
            peak_limit: Highest peak of the turn.
            forward_limit: Highest peak of the forward pass.
            hint: An option to start from.
            minimise_peak: Minimise the turn's peak instead.
            effort: Deterministic time, in about seconds.
            seconds: Wall-clock limit, the last resort.
            seed: Random seed.

        Returns:
            The best option and a bound.
        """
        model = self.model.clone()
        model.add(self.kept_bytes <= kept_limit)
        model.add(self.peak <= max(0, peak_limit))
        for constant, kept in self.forward_rows:
            extra = sum(self.kind.sizes[s] * self.keep[s] for s in kept if s in self.keep)
            room = forward_limit - constant
            if room < 0:
                return Answer(None, float("inf"), 0.0)
            model.add(extra <= room)
        runtime = [op.runtime_ns // self.time_unit for op in self.kind.ops]
        cost = sum(runtime[self.slots[q][1]] * run for q, run in self.run.items())
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
        # Programs are small and many: looking for symmetries and probing costs more than it saves.
        solver.parameters.symmetry_level = 0
        solver.parameters.cp_model_probing_level = 0
        solver.parameters.max_time_in_seconds = seconds
        status = solver.solve(model)
        spent = solver.response_proto.deterministic_time
        if status == cp_model.INFEASIBLE:
            return Answer(None, float("inf"), spent)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return Answer(None, 0.0, spent)
        option = self._read(solver)
        first = sum(op.runtime_ns for op in self.kind.ops if op.fresh)
        bound = solver.best_objective_bound * self.time_unit - first
        return Answer(option, 0.0 if minimise_peak else bound, spent)

    def _read(self, solver: cp_model.CpSolver) -> Option:
        tail: list[int] = []
        runs: dict[int, list[int]] = {}
        for q, run in self.run.items():
            if solver.boolean_value(run):
                runs.setdefault(self.slots[q][0], []).append(self.slots[q][1])
        for t in range(len(self.kind.stages)):
            tail += runs.get(t, [])
            tail.append(-1 - t)
        early = {k for k, var in self.early.items() if solver.boolean_value(var)}
        return replay(self.kind, early, tail)

    def _hint(self, model: cp_model.CpModel, option: Option) -> None:
        """Hints the runs of an option; the rest follows from them."""
        stage = 0
        ran: set[tuple[int, int]] = set()
        for step in option.tail:
            if step < 0:
                stage = -step
            else:
                ran.add((stage, step))
        for q, run in self.run.items():
            model.add_hint(run, self.slots[q] in ran)
        for k, early in self.early.items():
            model.add_hint(early, k in option.early)
