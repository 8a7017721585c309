"""Measures how long operators take when each runs after others, as in a training step.

An operator that is repeated finds its inputs, its code and the branches of its code in the caches,
where it left them; the same calls in a step took 1.3 to 2 times as long. So operators run in turns,
in the order of the step. docs/benchmarks/step_time.md holds their sums against what steps take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.fx as fx

from autockpt import progress
from autockpt.capture.nodes import tensors_of

# The inputs of operators that take turns: more than a core's own cache, less than a step holds.
_TURN_BYTES = 64 * 2**20
_MIN_ROUNDS = 5
_MAX_ROUNDS = 15
# An operator is not run again once it has taken this long.
_ENOUGH_SECONDS = 0.02
_SLOW_SECONDS = 0.5  # or so much, if that is before the fewest rounds


def times_ns(
    nodes: Sequence[fx.Node], call_of: Callable[[fx.Node], Callable[[], Any]]
) -> list[int]:
    """Returns the shortest time of every node's operator, in ns.

    Args:
        nodes: The nodes, in the order of the step.
        call_of: Makes a call of a node's operator, with its inputs.
    """
    shortest_ns: list[int] = []
    with torch.no_grad():
        for batch in _batches(nodes):
            shortest_ns += _in_turns([call_of(node) for node in batch])
            progress.advance(len(shortest_ns))
    return shortest_ns


def _batches(nodes: Sequence[fx.Node]) -> Iterator[list[fx.Node]]:
    batch: list[fx.Node] = []
    batch_bytes = 0
    for node in nodes:
        size_bytes = sum(
            tensor.untyped_storage().nbytes()
            for parent in node.all_input_nodes
            for tensor in tensors_of(parent.meta.get("val"))
        )
        if batch and batch_bytes + size_bytes > _TURN_BYTES:
            yield batch
            batch, batch_bytes = [], 0
        batch.append(node)
        batch_bytes += size_bytes
    if batch:
        yield batch


def _in_turns(calls: Sequence[Callable[[], Any]]) -> list[int]:
    for call in calls:
        call()  # the first run chooses kernels and packs weights
    shortest_ns = [2**62] * len(calls)
    spent_ns = [0] * len(calls)
    for num_done in range(_MAX_ROUNDS):
        enough_s = _ENOUGH_SECONDS if num_done >= _MIN_ROUNDS else _SLOW_SECONDS
        waiting = [i for i, spent in enumerate(spent_ns) if spent < enough_s * 1e9]
        for i in waiting:
            started_ns = time.perf_counter_ns()
            result = calls[i]()
            took_ns = time.perf_counter_ns() - started_ns
            del result
            shortest_ns[i] = min(shortest_ns[i], took_ns)
            spent_ns[i] += took_ns
        if not waiting:
            break
    return shortest_ns
