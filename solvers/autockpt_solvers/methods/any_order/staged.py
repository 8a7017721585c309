"""Plans in stages, the class that `exact` and `intervals` search.

Every op has a place: its first run in the order in which nothing runs twice. Stage t ends with the
first run of the op at place t; before it, ops at earlier places may run again, each at most once,
in the order of their places. A plan therefore is a set of runs (stage, place), and its memory
follows from that set alone. This is the frontier-advancing form of Checkmate (Jain et al. 2020).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.methods.greedy import solve_greedy
from autockpt_solvers.methods.mincut import solve_mincut

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autockpt_solvers.orders.facts import GraphFacts
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import Session

Run = tuple[int, int]  # stage, place


class StagedGraph:
    """A graph with its ops renamed to their places.

    Attributes:
        order: The op at each place.
        reads: Per place, the storages its op reads.
        writes: Per place, the storages its op writes.
        runtime_ns: Per place, the time of its op.
        working_bytes: Per place, what its op takes beyond all that is live and what it writes.
        overwritten: Storages that their reader overwrites.
        sizes: Bytes per storage.
        is_output: Per storage, whether it stays to the end.
        made_at: Per storage that is written, the place of its op.
        readers: Per storage, the places that read it, ascending.
        again: Per place, the later stages in which running its op again may be of use, ascending.
        use_until: Per storage, the last stage in which something may read it.
    """

    def __init__(self, facts: GraphFacts) -> None:
        graph = facts.graph
        self.order = facts.baseline()
        place = {op: k for k, op in enumerate(self.order)}
        self.num = len(self.order)
        self.reads = [facts.reads[op] for op in self.order]
        self.writes = [facts.writes[op] for op in self.order]
        self.runtime_ns = [facts.runtime[op] for op in self.order]
        self.working_bytes = [facts.working[op] for op in self.order]
        self.overwritten = {s for op in graph.ops for s in op.overwrites}
        self.sizes = facts.sizes
        self.is_output = graph.is_output
        self.made_at = {s: place[op] for s, op in enumerate(graph.producer) if op in place}
        self.readers = [
            sorted(place[r] for r in readers if r in place) for readers in graph.readers
        ]
        self.use_until = [-1] * len(self.sizes)
        self.again: list[list[int]] = [[] for _ in self.order]
        for k in range(self.num - 1, -1, -1):
            for s in self.writes[k]:
                for r in self.readers[s]:
                    last = self.again[r][-1] if self.again[r] else r
                    self.use_until[s] = max(self.use_until[s], r, last)
            op = self.order[k]
            if facts.rerunnable[op]:
                last = max((self.use_until[s] for s in self.writes[k]), default=-1)
                self.again[k] = [
                    t
                    for t in range(k + 1, last + 1)
                    # A forward op runs again in its own region's forward or backward only.
                    if graph.ops[op].is_backward or facts.region[self.order[t]] == facts.region[op]
                ]

    def compute_order(self, again: Iterable[Run]) -> list[int]:
        """The compute order of a plan: all first runs, and these runs besides."""
        runs = sorted([*((t, t) for t in range(self.num)), *again])
        return [self.order[k] for _, k in runs]

    def runs_again(self, order: Sequence[int]) -> set[Run]:
        """What an order runs again, as far as a plan in stages can express it."""
        place = {op: k for k, op in enumerate(self.order)}
        ran = bytearray(self.num)
        stage = 0
        found = set()
        for op in order:
            if op not in place:
                continue
            k = place[op]
            if ran[k] and stage in self.again[k]:
                found.add((stage, k))
            ran[k] = 1
            while stage < self.num and ran[stage]:
                stage += 1
        return found

    def kept(self, again: Iterable[Run]) -> list[set[int]]:
        """Per stage, the storages that a plan keeps into it."""
        before: list[set[int]] = [set() for _ in range(self.num + 1)]
        needed: set[int] = set()
        stage = self.num - 1
        for t, k in sorted([*((t, t) for t in range(self.num)), *again], reverse=True):
            while stage > t:
                before[stage] = set(needed)
                stage -= 1
            needed.difference_update(self.writes[k])
            needed.update(self.reads[k])
        return before


def heuristic_orders(
    problem: Problem, session: Session, *, time_limit_s: float
) -> list[Sequence[int]]:
    """What quick methods offer, to start from."""
    deadline = session.clock.until(time_limit_s)
    facts = session.facts
    found: list[Sequence[int]] = [facts.baseline(), facts.just_in_time(())]
    for heuristic in (solve_mincut, solve_greedy):
        left = session.clock.seconds_left(deadline, share=0.5)
        found.extend(heuristic(problem, session, time_limit_s=left).orders)
    return found


def best_of(problem: Problem, facts: GraphFacts, found: Sequence[Sequence[int]]) -> Sequence[int]:
    """The cheapest order that fits, or the one with the lowest peak."""
    return min(found, key=lambda order: facts.lack(order, problem.available_bytes))
