"""An order of the backward ops that needs less memory than the graph's own.

Autograd runs a backward pass in the reverse order of the forward. Another order often needs less
memory: a gradient that is complete early waits for its reader, and an op that frees more than it
writes runs late. Memory that is used in vain has to be won back by recomputation.

List scheduling (after Graham 1969) makes a few orders, by rules that look at bytes only, so equal
layers stay equal. Each order has a class of plans: those that run each backward op once, in that
order. The order with the lowest bound on recompute time, at one reference budget, is used for
all budgets. So everything that holds for plans in the graph's order holds in that order too.

Guarantee: none about the order. The graph's own order is kept unless the bound shows a gain.
Complexity: linear in reads, but for a heap.
Weakness: the best order for one budget need not be the best for another. Ops do not leave their
stretch, which is their region and the fences around them.
"""

from __future__ import annotations

from collections import Counter
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from autockpt_solvers.bounds.peak import lower_bound_bytes
from autockpt_solvers.bounds.recomputation import lower_bound_ns
from autockpt_solvers.clock import Clock
from autockpt_solvers.orders.facts import GraphFacts
from autockpt_solvers.orders.reordered import with_backward
from autockpt_solvers.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.orders.reordered import Moved

# The budget at which orders are compared, as a share of the way from the least possible peak to the
# baseline's: in the middle of the zoo table's shares.
_REFERENCE = 0.25
_WORTH = 0.99  # another order is used if its bound is below this times that of the own order


def find_order(
    graph: ComputeGraph, *, time_limit_s: float, clock: Clock | None = None
) -> Moved | None:
    """The graph with its backward ops in the most promising order; None to keep its own.

    Args:
        graph: A graph with a backward pass.
        time_limit_s: Ends the search; the graph keeps its own order then.
        clock: The clock of the search, if it is a part of one.
    """
    clock = clock or Clock()
    deadline = clock.until(time_limit_s)
    least, most = lower_bound_bytes(graph), _baseline_peak_bytes(graph)
    listed: dict[tuple[int, ...], None] = {}
    for rule in (_shrinking_first, _least_grown):
        if clock.now() < deadline:
            listed[tuple(_listed(graph, rule))] = None
    choices = [with_backward(graph, order) for order in listed if clock.now() < deadline]
    # An order whose baseline peaks no lower rarely has a lower bound. One whose least possible peak
    # is higher would lose budgets that `ilp` can meet without it.
    choices = [
        moved
        for moved in choices
        if _baseline_peak_bytes(moved.graph) < most and lower_bound_bytes(moved.graph) <= least
    ]
    if not choices:
        return None
    budget = int(least + _REFERENCE * (most - least))

    def needed_ns(graph: ComputeGraph) -> int:
        problem = Problem(graph=graph, budget_bytes=budget)
        left = clock.seconds_left(deadline)
        return lower_bound_ns(problem, time_limit_s=left, clock=clock)

    needed = [needed_ns(moved.graph) for moved in choices if clock.now() < deadline]
    own_ns = needed_ns(graph) if clock.now() < deadline else 0
    if clock.now() >= deadline:
        return None  # bounds that time has ended cannot be compared
    best = min(range(len(choices)), key=needed.__getitem__)
    return choices[best] if needed[best] < _WORTH * own_ns else None


def _baseline_peak_bytes(graph: ComputeGraph) -> int:
    facts = GraphFacts(graph)
    return facts.evaluate(facts.baseline())[0]


def _shrinking_first(grown_bytes: int, kept_bytes: int) -> int:
    """Ops that free at least what they write come first; the others in the graph's order."""
    return int(grown_bytes > 0)


def _least_grown(grown_bytes: int, kept_bytes: int) -> int:
    """Ops that add least to memory come first; what stays until the end counts twice."""
    return grown_bytes + kept_bytes


def _listed(graph: ComputeGraph, rule: Callable[[int, int], int]) -> list[int]:
    """The backward ops in the order of a rule: of the ops that are ready, the least comes next.

    Args:
        graph: The graph.
        rule: Gets the bytes that a run of the op adds to memory, and the bytes of its writes that
            stay until the end; returns what is compared.
    """
    ready = _Ready(graph, rule)
    return [ready.take() for _ in range(graph.num_forward, len(graph.ops))]


class _Ready:
    """The backward ops that may run next, the least first."""

    def __init__(self, graph: ComputeGraph, rule: Callable[[int, int], int]) -> None:
        self.graph = graph
        self.rule = rule
        first = graph.num_forward
        backward = range(first, len(graph.ops))
        self.readers = [[r for r in readers if r >= first] for readers in graph.readers]
        self.left = [len(readers) for readers in self.readers]
        self.waits_for = {
            op: sum(graph.producer[s] >= first for s in graph.ops[op].reads) for op in backward
        }
        self.stretch_left = Counter(graph.stretch[op] for op in backward)
        self.stretch = 1
        self.later: dict[int, list[int]] = {}
        # An entry of the heap is outdated if its op has run, or is worth something else by now.
        self.worth: dict[int, int] = {}
        self.heap: list[tuple[int, int]] = []
        for op in backward:
            if not self.waits_for[op]:
                self._admit(op)

    def take(self) -> int:
        """Take the next op, which runs now."""
        while not self.stretch_left[self.stretch]:
            self.stretch += 1
            for op in self.later.pop(self.stretch, ()):
                self._rate(op)
        worth, op = heappop(self.heap)
        while self.worth.get(op) != worth:
            worth, op = heappop(self.heap)
        del self.worth[op]
        self.stretch_left[self.stretch] -= 1
        for s in self.graph.ops[op].reads:
            self.left[s] -= 1
            if self.left[s] == 1:  # its last reader frees it
                for reader in self.readers[s]:
                    if reader in self.worth:
                        self._rate(reader)
        for s in self.graph.ops[op].writes:
            for reader in self.readers[s]:
                self.waits_for[reader] -= 1
                if not self.waits_for[reader]:
                    self._admit(reader)
        return op

    def _admit(self, op: int) -> None:
        stretch = self.graph.stretch[op]
        if stretch == self.stretch:
            self._rate(op)
        else:
            self.later.setdefault(stretch, []).append(op)

    def _rate(self, op: int) -> None:
        graph = self.graph
        reads, writes = graph.ops[op].reads, graph.ops[op].writes
        made = sum(map(graph.size, writes))
        kept = sum(graph.size(s) for s in writes if graph.is_output[s])
        gone = sum(graph.size(s) for s in reads if self.left[s] == 1 and not graph.is_output[s])
        self.worth[op] = self.rule(made - gone, kept)
        heappush(self.heap, (self.worth[op], op))
