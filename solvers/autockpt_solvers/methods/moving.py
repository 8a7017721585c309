"""Ops moved: the backward pass in an order that holds less.

Autograd runs a backward pass in the reverse order of the forward. Often another order holds less at
once: a gradient that is whole early waits for its reader, and an op that would let go of more than
it makes runs late. What is held in vain is room that recomputation has to pay for.

List scheduling (after Graham 1969) makes a few orders, by rules that know of bytes only, so that
equal layers stay equal. Each stands for a class of plans: those that run each backward op once, in
that order. The order whose lower bound on recomputation is lowest, in one reference room, is taken
for all rooms; so everything that is promised of plans in the graph's order holds in it too.

Guarantee: none about the order; the graph's own is kept unless the bound says that another is worth
it. Complexity: quadratic in the ops that are ready at once, at worst. Weakness: the best order for
one room need not be the best for another; ops do not leave their stretch, that is their region and
the fences around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autockpt_solvers.graph import ComputeGraph
from autockpt_solvers.methods.attempt import Attempt
from autockpt_solvers.methods.bound import lower_bound_bytes, lower_bound_ns
from autockpt_solvers.methods.orders import Orders
from autockpt_solvers.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_REFERENCE = 0.25  # of the way from the least bytes of any plan to the baseline's
_WORTH = 0.99  # times the graph's own bound; an order above it is not worth it


@dataclass(frozen=True, slots=True)
class Moved:
    """A graph whose backward ops stand in another order.

    Attributes:
        graph: The graph.
        originals: Per op of `graph`, its index in the graph that it was made from.
    """

    graph: ComputeGraph
    originals: tuple[int, ...]

    def originally(self, order: Sequence[int]) -> list[int]:
        """A compute order of `graph` as one of the graph that it was made from."""
        return [self.originals[op] for op in order]

    def attempt(self, found: Attempt) -> Attempt:
        """Plans for `graph` as plans for the graph that it was made from."""
        return Attempt(
            orders=tuple(self.originally(order) for order in found.orders),
            fixed=tuple(self.originally(order) for order in found.fixed),
            method=found.method,
        )


def with_backward(graph: ComputeGraph, backward: Sequence[int]) -> Moved:
    """The graph with its backward ops in an order that their reads allow.

    Args:
        graph: The graph.
        backward: Its backward ops, each once; they stay within their stretch.

    Raises:
        ValueError: An op reads what is written later.
    """
    originals = (*range(graph.num_forward), *backward)
    ops = tuple(graph.ops[op] for op in originals)
    return Moved(ComputeGraph(ops=ops, storages=graph.storages, outputs=graph.outputs), originals)


def find_order(graph: ComputeGraph, *, time_limit_s: float) -> Moved | None:
    """The graph with its backward ops in the most promising order, None where that is its own.

    Args:
        graph: A graph with a backward pass.
        time_limit_s: Ends the computation of a bound.
    """
    most = _baseline_peak_bytes(graph)
    listed = dict.fromkeys(tuple(_listed(graph, rule)) for rule in (_shrinking_first, _least_grown))
    choices = [with_backward(graph, backward) for backward in listed]
    # The moment that needs most is the dearest: an order that spares nothing there saves no time.
    choices = [moved for moved in choices if _baseline_peak_bytes(moved.graph) < most]
    if not choices:
        return None
    least = lower_bound_bytes(graph)
    room = int(least + _REFERENCE * (most - least))

    def needed_ns(graph: ComputeGraph) -> int:
        problem = Problem(graph=graph, budget_bytes=room)
        return lower_bound_ns(problem, time_limit_s=time_limit_s)

    best = min(choices, key=lambda moved: needed_ns(moved.graph))
    return best if needed_ns(best.graph) < _WORTH * needed_ns(graph) else None


def _baseline_peak_bytes(graph: ComputeGraph) -> int:
    orders = Orders(graph)
    return orders.evaluate(orders.baseline())[0]


def _shrinking_first(grown_bytes: int, kept_bytes: int) -> int:
    """Ops that let go of no less than they make come first; the rest in the graph's order."""
    return int(grown_bytes > 0)


def _least_grown(grown_bytes: int, kept_bytes: int) -> int:
    """Ops that add least come first, where what stays to the end counts twice."""
    return grown_bytes + kept_bytes


def _listed(graph: ComputeGraph, rule: Callable[[int, int], int]) -> list[int]:
    """The backward ops in the order that a rule gives: of those that are ready the least, in turn.

    Args:
        graph: The graph.
        rule: Takes the bytes by which an op's run grows what is live, and the bytes of those of its
            writes that stay, to what is compared.
    """
    first, num_ops = graph.num_forward, len(graph.ops)
    size, is_output = graph.size, graph.is_output
    readers = [[r for r in readers if r >= first] for readers in graph.readers]
    left = [len(r) for r in readers]
    made = [sum(map(size, op.writes)) for op in graph.ops]
    kept = [sum(size(s) for s in op.writes if is_output[s]) for op in graph.ops]
    waits_for = [
        len({graph.producer[s] for s in op.reads if graph.producer[s] >= first}) for op in graph.ops
    ]
    stretch_left = [0] * (2 + max(graph.stretch, default=0))
    for op in range(first, num_ops):
        stretch_left[graph.stretch[op]] += 1
    waiting: dict[int, list[int]] = {}
    ready: set[int] = set()
    current = 1

    def admit(op: int) -> None:
        if graph.stretch[op] == current:
            ready.add(op)
        else:
            waiting.setdefault(graph.stretch[op], []).append(op)

    def worth(op: int) -> tuple[int, int]:
        gone = sum(size(s) for s in graph.ops[op].reads if left[s] == 1 and not is_output[s])
        return rule(made[op] - gone, kept[op]), op

    for op in range(first, num_ops):
        if not waits_for[op]:
            admit(op)
    listed: list[int] = []
    while len(listed) < num_ops - first:
        while not stretch_left[current]:
            current += 1
            ready.update(waiting.pop(current, ()))
        op = min(ready, key=worth)
        ready.remove(op)
        listed.append(op)
        stretch_left[current] -= 1
        for s in graph.ops[op].reads:
            left[s] -= 1
        for reader in {r for s in graph.ops[op].writes for r in readers[s]}:
            waits_for[reader] -= 1
            if not waits_for[reader]:
                admit(reader)
    return listed
