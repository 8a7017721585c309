"""A re-statement of the memory budget of torch's partitioner, for graphs of the engine.

`torch._functorch.partitioners` (2.13, `choose_saved_values_set`): forbid recomputing what is
compute-intensive (matmuls, convolutions, attention), choose by a knapsack over bytes and run time
which of those to save, allow the others to run again, and save what a minimum cut of bytes then
says, recomputation of everything else being free. Here every capacity of the knapsack is tried,
run times are the measured ones, and what is not saved is made again just before its first reader:
more than torch does, so the table flatters it.
"""

from __future__ import annotations

import numpy as np

from autockpt_solvers import Problem
from autockpt_solvers.attempt import Attempt
from autockpt_solvers.orders.facts import GraphFacts
from autockpt_solvers.orders.network import KeepNetwork

_INTENSIVE = ("mm", "addmm", "bmm", "baddbmm", "convolution", "_scaled_dot_product")
_CAPACITIES = 32
_QUANTA = 1000


def torch_knapsack(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers the plan of every capacity that is of use for the problem."""
    del time_limit_s, seed
    graph, facts = problem.graph, GraphFacts(problem.graph)
    items = [
        op
        for op in range(graph.num_forward)
        if facts.rerunnable[op]
        and graph.is_needed[op]
        and graph.ops[op].name.rstrip("_0123456789").startswith(_INTENSIVE)
    ]
    sizes = [sum(facts.sizes[s] for s in facts.writes[op]) for op in items]
    unit = max(1, sum(sizes) // _QUANTA)
    chosen = _knapsack([size // unit for size in sizes], [facts.runtime[op] for op in items])
    found = [facts.just_in_time(())]
    for k in range(_CAPACITIES + 1):
        capacity = k * (chosen.shape[1] - 1) // _CAPACITIES
        saved = set()
        for row in range(len(items) - 1, -1, -1):
            if chosen[row, capacity]:
                saved.add(items[row])
                capacity -= sizes[row] // unit
        found.append(facts.just_in_time(_cut(facts, saved)))
    best = facts.best(found, problem.available_bytes)
    return Attempt(orders=tuple(best))


def _knapsack(sizes: list[int], values: list[int]) -> np.ndarray:
    """Per item and capacity, whether the best choice among the items so far has the item."""
    best = np.zeros(sum(sizes) + 1)
    chosen = np.zeros((len(sizes), best.size), dtype=bool)
    for row, (size, value) in enumerate(zip(sizes, values, strict=True)):
        with_item = np.full(best.size, -1.0)
        with_item[size:] = best[: best.size - size] + value
        chosen[row] = with_item > best
        best = np.maximum(best, with_item)
    return chosen


def _cut(facts: GraphFacts, saved: set[int]) -> set[int]:
    """The fewest bytes from which everything but `saved` can be made again."""
    graph = facts.graph
    priced = [
        s
        for s, op in enumerate(graph.producer)
        if op < graph.num_forward and not graph.is_output[s] and graph.readers[s]
    ]
    network = KeepNetwork(
        again_ns=[
            0 if facts.rerunnable[op] and op not in saved else None
            for op in range(graph.num_forward)
        ],
        reads=[facts.reads[op] for op in range(graph.num_forward)],
        producer=graph.producer,
        priced=priced,
        needed={s for s in priced if graph.readers[s][-1] >= graph.num_forward},
        must_keep=(),
    )
    return network.kept([float(size) for size in facts.sizes])
