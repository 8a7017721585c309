"""`local`: simulated annealing over compute orders, in which an op may occur several times.

After FastSA, which anneals sequences of ops in the same way, with another energy. A state is a
compute order. A step moves one run, recomputes a value right before one of its readers, or drops a
run. The energy is the recompute time plus the bytes over the budget, summed over all runs, whose
weight rises while the temperature falls. Short runs come first and longer ones after them, each
from the best order so far.
On graphs without a backward pass the inner loop is `anneal_slots`, on others `anneal_orders`.
Guarantee: every order on the way is valid. It does not guarantee how far the best plan is.
Complexity: per step, linear in runs and reads; in slots, linear in what the moved run touches. The
size of the graph sets the number of steps, and the time limit cuts it short.
Weakness: on graphs of many thousand ops the steps do not suffice. Backward ops run once, in their
order. Equal layers are not recognised.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.clock import Clock
from autockpt_solvers.kernels.annealing import Cooling, Steps, nothing_found
from autockpt_solvers.methods.local.anneal_orders import (
    anneal_orders,
    evaluate,
    order_graph,
    order_scratch,
)
from autockpt_solvers.methods.local.anneal_slots import anneal_slots
from autockpt_solvers.methods.local.slots import (
    empty_intervals,
    empty_slots,
    fill_slots,
    read_slots,
    slot_graph,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.orders.facts import GraphFacts
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import Session

# For those who have a plan of another method already: up to how many ops annealing from it may get
# further within a few seconds, and with which share of the usual steps.
MOST_OPS = 160
EFFORT_FROM_A_PLAN = 0.2

_STEPS_PER_CALL = 2048  # from one look at the clock to the next
# How many steps all runs take: so many per run of the first order, but no more runs and reads in
# all than that (orders), or no more steps than that (slots).
_STEPS_PER_RUN = 20_000
_MOST_WORK = 20_000_000_000
_MOST_SLOT_STEPS = 2_000_000
# Orders may have so many times the runs of the first one, and so many more at most.
_MOST_REPEATS, _MOST_MORE_RUNS, _LEAST_MORE_RUNS = 4, 4000, 8


def solve_local(problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
    """Offer the cheapest order found that fits, and the one with the lowest peak."""
    return anneal_from(problem, session, session.facts.baseline(), time_limit_s=time_limit_s)


def anneal_from(
    problem: Problem,
    session: Session,
    start: Sequence[int],
    *,
    time_limit_s: float,
    goal_ns: int = 0,
    others: Sequence[Sequence[int]] = (),
    effort: float = 1.0,
) -> Attempt:
    """Offer what annealing from a valid order finds; never worse than that order.

    Args:
        problem: The problem.
        session: The session of its graph.
        start: A valid order.
        time_limit_s: Ends the search.
        goal_ns: Recompute time that is good enough.
        others: Further valid orders to start from, each with a short run, before the long one.
        effort: Share of the usual number of steps.

    Returns:
        The cheapest order that fits and the one with the lowest peak.
    """
    graph = session.graph
    is_free = graph.num_forward == len(graph.ops) > 0 and len({op.region for op in graph.ops}) == 1
    kind = SlotAnnealer if is_free else OrderAnnealer
    annealer = kind(session.facts, start, problem.available_bytes, session.seed, others)
    annealer.clock = session.clock
    annealer.goal_ns = goal_ns
    annealer.steps = int(annealer.steps * effort)
    annealer.run(time_limit_s)
    found = [order for order in (annealer.best_order, annealer.lean_order) if order is not None]
    return Attempt(orders=tuple(without_idle_runs(graph, order) for order in found))


class OrderAnnealer:
    """A graph as arrays, and the best orders found so far.

    Attributes:
        shares: Shares of the steps that the runs get.
        temperatures: First and last temperature of a run, in times of an average op.
        weights: First and last weight of the bytes of an average storage over the budget.
    """

    shares: tuple[float, ...] = (0.04, 0.12, 0.3, 0.54)
    temperatures = (1.0, 0.02)
    weights = (0.1, 3.0)

    def __init__(
        self,
        facts: GraphFacts,
        start: Sequence[int],
        budget: int,
        seed: int,
        others: Sequence[Sequence[int]] = (),
    ) -> None:
        graph = facts.graph
        self.graph = order_graph(facts)
        self.budget = budget
        self.goal_ns = 0
        self.clock = Clock()
        self.others = others
        self.longest = max(map(len, (start, *others)))
        more = max(_LEAST_MORE_RUNS, min(_MOST_REPEATS * len(start), _MOST_MORE_RUNS))
        size = self.longest + more
        self.scratch = order_scratch(self.graph, size)
        self.order, self.best, self.lean = (np.zeros(size, dtype=np.int64) for _ in range(3))
        self.found = nothing_found()
        self.random = np.random.default_rng(seed)
        self.length = len(start)
        self.order[: self.length] = start
        self._record()
        num = max(1, len(graph.ops))
        self.cooling = Cooling(
            max(1.0, sum(facts.runtime) / num),
            max(1.0, sum(facts.sizes) / num),
            *self.temperatures,
            *self.weights,
        )
        per_step = len(start) * 2 + sum(map(len, facts.reads)) + 10
        self.steps = min(_STEPS_PER_RUN * len(start), _MOST_WORK // per_step)

    @property
    def best_ns(self) -> int:
        """Recompute time of the cheapest order that fits; -1 if there is none."""
        return int(self.found["best_ns"][0])

    @property
    def best_order(self) -> list[int] | None:
        """The cheapest order that fits, or None."""
        if self.best_ns < 0:
            return None
        order: list[int] = self.best[: int(self.found["best_length"][0])].tolist()
        return order

    @property
    def lean_order(self) -> list[int]:
        """The order with the lowest peak."""
        order: list[int] = self.lean[: int(self.found["lean_length"][0])].tolist()
        return order

    @property
    def _is_done(self) -> bool:
        """Whether the best order is good enough."""
        return 0 <= self.best_ns <= self.goal_ns

    def _record(self) -> None:
        """Record the current order if it is the best or the leanest."""
        args = (self.order, self.length, self.graph, self.scratch, self.budget)
        over, peak, recompute = evaluate(*args)
        assert over >= 0, "annealing starts from orders that can run"
        record = self.found[0]
        if over == 0 and (record["best_ns"] < 0 or recompute < record["best_ns"]):
            record["best_ns"], record["best_length"] = recompute, self.length
            self.best[:] = self.order
        if peak < record["lean_peak_bytes"]:
            record["lean_peak_bytes"], record["lean_length"] = peak, self.length
            self.lean[:] = self.order

    def run(self, seconds: float) -> None:
        """Anneal until the steps or the seconds are used up, or nothing is left to gain."""
        self._anneal(Steps(0, 0, 1))  # compiles; that is no part of the search
        deadline = self.clock.until(seconds)
        seconds_per_step = 0.0
        starts = list(self.others)
        short, *rest = self.shares
        for share in (*(short for _ in range(1 + len(starts))), *rest):
            steps = max(_STEPS_PER_CALL, int(self.steps * share))
            left = deadline - self.clock.now()
            if seconds_per_step:
                # A run that is cut off ends hot, so take all of a shorter one instead.
                steps = min(steps, int(left / seconds_per_step))
            if left <= 0 or steps < _STEPS_PER_CALL or self._is_done:
                return
            if seconds_per_step and starts:
                start = starts.pop(0)
                self.length = len(start)
                self.order[: self.length] = start
            elif self.best_ns >= 0:
                self.length = int(self.found["best_length"][0])
                self.order[:] = self.best
            seconds_per_step = self._run_once(steps, deadline)

    def _run_once(self, steps: int, deadline: float) -> float:
        """Take one run from hot to cold; returns the seconds per step."""
        first = 0
        started = self.clock.now()
        while first < steps:
            stop = min(first + _STEPS_PER_CALL, steps)
            self.length = self._anneal(Steps(first, stop, steps))
            first = stop
            if self.best_ns >= 0:
                self.clock.found(self.best_ns, self.budget)
            if self._is_done or self.clock.now() > deadline:
                break
        return (self.clock.now() - started) / max(1, first)

    def _anneal(self, steps: Steps) -> int:
        """Take some steps of a run; returns the order's length."""
        return anneal_orders(
            self.order,
            self.length,
            self.graph,
            self.scratch,
            self.random,
            self.best,
            self.lean,
            self.found,
            self.budget,
            steps,
            self.cooling,
        )


class SlotAnnealer(OrderAnnealer):
    """The same in slots, for graphs of one region without a backward pass."""

    shares = (0.2, 0.7)
    temperatures = (1.0, 0.003)
    weights = (0.005, 2.0)

    def __init__(
        self,
        facts: GraphFacts,
        start: Sequence[int],
        budget: int,
        seed: int,
        others: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__(facts, start, budget, seed, others)
        self.steps = min(_STEPS_PER_RUN * len(start), _MOST_SLOT_STEPS)
        self.slot_graph = slot_graph(facts)
        self.slots = empty_slots(self.slot_graph, self.longest, budget)
        self.old = empty_intervals(self.slot_graph)
        self.new = empty_intervals(self.slot_graph)

    def _anneal(self, steps: Steps) -> int:
        fill_slots(self.order, self.length, self.slot_graph, self.slots, self.old)
        anneal_slots(
            self.slot_graph,
            self.slots,
            self.old,
            self.new,
            self.random,
            self.best,
            self.lean,
            self.found,
            steps,
            self.cooling,
        )
        return int(read_slots(self.order, self.slots))


def without_idle_runs(graph: ComputeGraph, order: Sequence[int]) -> list[int]:
    """Drop runs of which nothing is read, if the op runs another time."""
    kept: list[int] = []
    wanted: set[int] = set()
    runs = Counter(order)
    for op in reversed(order):
        writes = graph.ops[op].writes
        if runs[op] > 1 and not wanted.intersection(writes):
            runs[op] -= 1
            continue
        kept.append(op)
        wanted.difference_update(writes)
        wanted.update(graph.ops[op].reads)
    return kept[::-1]
