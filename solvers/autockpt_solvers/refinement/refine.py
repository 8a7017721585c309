"""Refinement: annealing over what a plan keeps, from the best plan found so far.

Windows keep what crosses their borders, and composition counts the whole backward of a window at
once. Annealing over the tables of a plan does neither: it changes one or two entries at a time and
evaluates each change on the whole graph.

A run that must stay within the budget seldom gets away from the plan that it starts from. So most
runs first give bytes over the budget next to no weight, exceed it by far, and come back as the
weight rises.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from autockpt_solvers.bounds.recomputation import bound_below_ns
from autockpt_solvers.clock import Clock
from autockpt_solvers.kernels.annealing import Cooling, Steps, nothing_found
from autockpt_solvers.refinement.anneal import Buffers, anneal_tables, derive, write_order
from autockpt_solvers.refinement.encode import encode, is_decided
from autockpt_solvers.refinement.tables import blank, graph_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.orders.facts import GraphFacts
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import Session


class Start(NamedTuple):
    """How a run begins; both in training steps.

    Attributes:
        temperature: The first temperature.
        weight: What a run that exceeds the budget by all of it counts at first.
    """

    temperature: float
    weight: float


# All figures below were chosen on the zoo graphs of benchmarks/solvers.py at f = 0.25 and 0.1,
# where refinement brings most.

# The runs of `refine`, each from the best plan so far: from hot and strict to cool and lenient.
_RUNS = (Start(3e-4, 0.06), Start(1e-4, 0.01), Start(1e-4, 0.003), Start(5e-5, 0.003))
# If these leave much to gain, many short runs follow, each from the start, and a last one from the
# best plan: which of a few very different plans a run reaches is decided early, and by chance.
_SHORT_RUN, _LAST_RUN = _RUNS[2:]
_STEPS_OF_SHORT_RUN = 60  # times the decisions and reads of the graph
_COOLING = 0.02  # last temperature over first
_LAST_WEIGHT = 20.0  # as `Start.weight`, at the last step
# Share of the changes that also decide how long the chains that they recompute are kept. It takes
# such changes to get far below the peak or the cost of a plan, but each recomputes more, and so
# takes longer. All runs make them if no plan fits yet. If the start is dearer than the bound by
# more than `_DEAR` training steps, or once a plan fits, all runs make fewer of them. Otherwise only
# some more short runs do, so many per short run.
CHAINS, _FEWER_CHAINS, _DEAR, _MORE_SHORT_RUNS = 1 / 2, 1 / 16, 0.1, 1 / 4
_LEANER = 0.97  # if no plan fits yet, runs aim at this share of the lowest peak so far

# How many steps `refine` takes: so many per op, but no more runs and reads in all than the second
# figure, since a step takes time in proportion to them.
_STEPS_PER_OP = 1000
_MOST_WORK = 2_400_000_000
# A plan this close to the bound, in training steps, is not worth a run. At the second distance it
# is worth all steps, and short runs; closer ones are worth fewer steps, farther ones more, up to
# the last factor.
_CLOSE, _FAR, _MOST_WORTH = 2e-3, 1e-2, 2.0

# `improve` takes a cold run, with so many steps per decision and read, but at most that share of
# all. On graphs with more ops and reads than the last figure that is too few to find anything.
_COLD_RUN = Start(2e-5, 0.01)
_STEPS_OF_COLD_RUN, _SHARE_OF_COLD_RUN, _MOST_IMPROVED = 20, 0.25, 15_000

# From one look at the clock to the next: at first and at least, at most, and the seconds after
# which they are halved. They are multiples of the steps after which annealing cools, so the clock
# changes no plan.
_LEAST_STEPS_PER_CALL, _STEPS_PER_CALL, _MOST_S_PER_CALL = 64, 1024, 0.2
_MOST_CELLS = 400_000_000  # of the largest table, in bytes; larger graphs are not refined
_MOST_RUNS = 4  # forward ops may run again this many times the number of ops


def refine(
    problem: Problem, session: Session, start: Sequence[int], *, deadline: float
) -> list[list[int]]:
    """Find plans better than `start`: cheaper if it fits, with a lower peak if it does not.

    Args:
        problem: The problem.
        session: The session of its graph.
        start: An order that can run.
        deadline: Ends the search.

    Returns:
        The cheapest order that fits, if one was found, and the one with the lowest peak.
    """
    facts, budget = session.facts, problem.available_bytes
    total = max(1, problem.graph.total_runtime_ns)

    def gain(known_ns: list[int]) -> float:
        """How far the cheapest plan is above the bound, in training steps."""
        left = deadline - session.clock.now()
        bound = bound_below_ns(session, budget, deadline - 3 * left / 4) if known_ns else 0
        return (min(known_ns, default=math.inf) - bound) / total

    known_ns = [recompute for peak, recompute in [facts.evaluate(start)] if peak <= budget]
    to_gain = gain(known_ns)
    if to_gain <= _CLOSE:
        return []
    clock = session.clock
    refiner = _refiner(session, budget, deadline)
    if refiner is None:
        return []
    chains = _FEWER_CHAINS if to_gain > _DEAR else 0.0
    steps = int(refiner.num_steps * min(_MOST_WORTH, to_gain / _FAR))
    halfway = (clock.now() + deadline) / 2
    refiner.run_each(start, _RUNS, steps // len(_RUNS), halfway, chains=chains)
    known_ns += [refiner.best_ns] if refiner.best_order is not None else []
    if known_ns and gain(known_ns) > _FAR:
        short = _STEPS_OF_SHORT_RUN * refiner.size
        num_short = max(1, steps // short)
        num_all = num_short + int(num_short * _MORE_SHORT_RUNS)
        for number in range(num_all):
            now = clock.now()
            until = now + (deadline - now) / (num_all + 1 - number)
            more = CHAINS if number >= num_short else chains
            refiner.run(start, min(short, steps), until, _SHORT_RUN, chains=more)
        refiner.run_each(start, [_LAST_RUN], steps // len(_RUNS), deadline, chains=chains)
    return [order for order in (refiner.best_order, refiner.lean_order) if order is not None]


def can_refine(facts: GraphFacts) -> bool:
    """Whether the tables of a graph have room in memory."""
    return len(facts.graph.storages) * len(facts.backward_ops) <= _MOST_CELLS


def can_start(facts: GraphFacts, order: Sequence[int]) -> bool:
    """Whether `refine` may start from an order: tables have room for so many runs only."""
    return len(order) <= (1 + _MOST_RUNS) * len(facts.graph.ops)


def can_improve(facts: GraphFacts) -> bool:
    """Whether `improve` is worth its time on a graph."""
    return work_per_step(facts) <= _MOST_IMPROVED


def improve(
    problem: Problem, order: Sequence[int], *, session: Session, deadline: float
) -> Sequence[int]:
    """Make a plan cheaper by a short and cold run; returns it as it is if that finds nothing.

    Args:
        problem: The problem.
        order: An order that fits.
        session: The session of the graph.
        deadline: Ends the run.
    """
    facts, budget = session.facts, problem.available_bytes
    refiner = _refiner(session, budget, deadline)
    if refiner is None:
        return order
    steps = min(_STEPS_OF_COLD_RUN * refiner.size, int(_SHARE_OF_COLD_RUN * refiner.num_steps))
    refiner.run(order, steps, deadline, _COLD_RUN)
    known = [order] if refiner.best_order is None else [order, refiner.best_order]
    return facts.best(known, budget)[0]


def work_per_step(facts: GraphFacts) -> int:
    """Runs and reads of the graph."""
    return 2 * len(facts.reads) + sum(map(len, facts.reads))


def _refiner(session: Session, budget: int, deadline: float) -> Refiner | None:
    """A refiner, compiled; None if there is nothing to decide, or no time."""
    facts = session.facts
    if not can_refine(facts) or session.clock.now() >= deadline:
        return None
    refiner = Refiner(facts, budget, session.seed, session.clock)
    if not refiner.has_choices:
        return None
    refiner.compile()
    return refiner


class Refiner:
    """A graph as tables, and the best orders found so far."""

    def __init__(
        self, facts: GraphFacts, budget: int, seed: int, clock: Clock | None = None
    ) -> None:
        graph = facts.graph
        self.facts = facts
        self.clock = clock or Clock()
        self.budget = max(1, budget)
        self.forward = [s for s, op in enumerate(graph.producer) if op < graph.num_forward]
        self.decided = np.array([is_decided(facts, s) for s in self.forward], dtype=np.int64)
        self.graph = graph_tables(facts, self.forward, self.decided)
        self.plan, self.work = blank(self.graph, most_runs=_MOST_RUNS * len(graph.ops))
        size = len(graph.ops) + self.plan.again.size
        self.buffers = Buffers(
            again=np.zeros((self.plan.again.size, 2), dtype=np.int64),
            choices=np.flatnonzero(self.decided),
            best=np.zeros(size, dtype=np.int64),
            lean=np.zeros(size, dtype=np.int64),
        )
        self.random = np.random.default_rng(seed)
        self.found = nothing_found()
        self.unit_ns = max(1.0, float(sum(facts.runtime)))

    def compile(self) -> None:
        """Compile everything, if that was never done here; it takes half a minute then."""
        derive(self.graph, self.plan, self.work, self.budget)
        before = self.found.copy()
        self.found["lean_peak_bytes"] = -1  # no plan is leaner
        self.plan.totals["over_bytes"] = 1  # none fits
        self._anneal(Steps(0, 0, 1), self.budget, self.cooling(_COLD_RUN), CHAINS)
        self.found[:] = before

    def cooling(self, start: Start) -> Cooling:
        """How a run cools that begins like this."""
        return Cooling(
            unit_ns=self.unit_ns,
            unit_bytes=float(self.budget),
            first_temperature=start.temperature,
            last_temperature=start.temperature * _COOLING,
            first_weight=start.weight,
            last_weight=_LAST_WEIGHT,
        )

    @property
    def num_steps(self) -> int:
        """Steps that are worth taking; they depend on the graph only."""
        most = _MOST_WORK // max(1, work_per_step(self.facts))
        return min(_STEPS_PER_OP * len(self.facts.reads), most)

    @property
    def size(self) -> int:
        """How much there is to decide: decisions, and reads."""
        return int(self.decided.sum()) + int(self.graph.reads.size)

    @property
    def has_choices(self) -> bool:
        """Whether there is anything to decide."""
        return bool(self.decided.any()) and self.graph.row.size > 0

    @property
    def best_ns(self) -> int:
        """Recompute time of the cheapest order that fits; -1 if there is none."""
        return int(self.found["best_ns"][0])

    @property
    def best_order(self) -> list[int] | None:
        """The cheapest order that fits, or None."""
        if self.best_ns < 0:
            return None
        order: list[int] = self.buffers.best[: int(self.found["best_length"][0])].tolist()
        return order

    @property
    def lean_order(self) -> list[int] | None:
        """The order with the lowest peak, or None."""
        order: list[int] = self.buffers.lean[: int(self.found["lean_length"][0])].tolist()
        return order or None

    def order(self) -> list[int]:
        """The order of the plan as the tables have it now."""
        order = np.zeros_like(self.buffers.best)
        length = write_order(self.graph, self.plan, order)
        ops: list[int] = order[:length].tolist()
        return ops

    def load(self, order: Sequence[int], budget: int) -> bool:
        """Make an order the plan; returns whether tables can describe it."""
        kept_at_end, kept_after = encode(self.facts, order, self.forward, self.decided)
        is_output = [self.facts.graph.is_output[s] for s in self.forward]
        self.plan.kept_at_end[:] = kept_at_end
        self.plan.kept_after[:] = kept_after[:, self.graph.row]
        self.plan.at_hand[:, 0] = (kept_at_end != 0) | np.array(is_output, dtype=bool)
        return bool(derive(self.graph, self.plan, self.work, self.budget_or(budget)))

    def budget_or(self, budget: int) -> int:
        """The larger of a budget and the refiner's own."""
        return max(self.budget, budget)

    def run_each(
        self,
        start: Sequence[int],
        runs: Sequence[Start],
        steps: int,
        deadline: float,
        *,
        chains: float,
    ) -> None:
        """Take some runs: the first from `start`, the others from the best plan so far.

        Args:
            start: An order that can run.
            runs: How each begins.
            steps: Number of steps of each.
            deadline: Makes the runs shorter, and ends them.
            chains: As in `anneal_tables`, once a plan fits.
        """
        for number, run in enumerate(runs):
            now = self.clock.now()
            until = now + (deadline - now) / (len(runs) - number)
            order, aim = self.best_order or start, 0
            fits = self.best_order is not None or self.facts.evaluate(start)[0] <= self.budget
            lean = self.lean_order
            if self.best_order is None and lean is not None:
                order, aim = lean, int(self.facts.evaluate(lean)[0] * _LEANER)
            share = chains if fits else CHAINS
            self.run(order, steps, until, run, aim=aim, chains=share)

    def run(
        self,
        order: Sequence[int],
        steps: int,
        deadline: float,
        start: Start,
        *,
        aim: int = 0,
        chains: float = 0.0,
    ) -> None:
        """Take one run from hot to cold, from an order that can run.

        Args:
            order: Where to start; nothing is done if tables cannot describe it.
            steps: Number of steps.
            deadline: Makes the run shorter, and ends it.
            start: How it begins.
            aim: A budget to aim at if it is larger than the refiner's. Then only the peak of what
                the run finds is recorded.
            chains: As in `anneal_tables`.
        """
        if not self.has_choices or self.best_ns == 0 or self.clock.now() >= deadline:
            return
        budget = self.budget_or(aim)
        if not self.load(order, budget):
            return
        cooling = self.cooling(start)
        started = self.clock.now()
        first, most, per_call = 0, steps, _LEAST_STEPS_PER_CALL
        while first < steps:
            stop = min(first + per_call, steps)
            before = self.clock.now()
            self._anneal(Steps(first, stop, steps), budget, cooling, chains)
            first = stop
            if self.best_ns >= 0 and budget == self.budget:
                self.clock.found(self.best_ns, budget)
            now = self.clock.now()
            if now - before < _MOST_S_PER_CALL / 4:
                per_call = min(_STEPS_PER_CALL, per_call * 2)
            elif now - before > _MOST_S_PER_CALL:
                per_call = max(_LEAST_STEPS_PER_CALL, per_call // 2)
            if self.best_ns == 0 or now > deadline:
                break
            # A run that is cut off ends hot, so take all of a shorter one instead.
            in_time = (deadline - now) * first / max(1e-9, now - started)
            steps = first + int(min(most - first, in_time))
        if budget > self.budget:
            self.found["best_ns"] = -1
            lean = self.lean_order
            if lean is not None and self.load(lean, self.budget):
                self._anneal(Steps(0, 0, 1), self.budget, cooling, chains)

    def _anneal(self, steps: Steps, budget: int, cooling: Cooling, chains: float) -> None:
        """Take some steps of a run from the plan as the tables have it now."""
        anneal_tables(
            self.graph,
            self.plan,
            self.work,
            self.buffers,
            self.random,
            self.found,
            budget,
            steps,
            cooling,
            chains,
        )
