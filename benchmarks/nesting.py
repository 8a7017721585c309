"""Memory of a chain of n equal blocks when recomputation nests, beside Revolve's closed form.

    python benchmarks/nesting.py [--blocks 8,16,32,64,128,256,512] [--time-limit 60]

A block reads the value of the block before it and writes one of the same size; its backward reads
the gradient above and the block's input. Memory is counted in blocks, such values. With s snapshots
and every block run at most t times beyond its first, Revolve turns back C(s + t, s) blocks
(Griewank and Walther, 2000); with s = t that is the most blocks for s + t, and s grows with log n.
"""

from __future__ import annotations

import argparse
import math

from autockpt_solvers import (
    ComputeGraph,
    Op,
    Problem,
    Storage,
    minimum_budget,
    simulate,
    solve,
    with_frees,
)
from autockpt_solvers.methods.revolve import moves
from autockpt_solvers.methods.segment_chain import SegmentChain
from autockpt_solvers.orders.facts import GraphFacts

_BLOCK = 1000


def chain(num: int) -> ComputeGraph:
    """A chain of equal blocks, its loss, and its backward."""
    ops = [
        Op(name=f"block{k}", runtime_ns=1000, reads=(k - 1,) if k else (), writes=(k,))
        for k in range(num)
    ]
    ops.append(Op(name="loss", runtime_ns=0, reads=(num - 1,), writes=(num,)))
    gradient = num
    for k in reversed(range(num)):
        reads = (gradient, k - 1) if k else (gradient,)
        gradient += 1
        ops.append(
            Op(name=f"back{k}", runtime_ns=2000, reads=reads, writes=(gradient,), is_backward=True)
        )
    storages = [Storage(name=op.name, size_bytes=0 if op.name == "loss" else _BLOCK) for op in ops]
    return ComputeGraph(ops=tuple(ops), storages=tuple(storages), outputs=(num, gradient))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--blocks", default="8,16,32,64,128,256,512")
    parser.add_argument("--time-limit", type=float, default=60.0)
    options = parser.parse_args()
    print(
        "| blocks n | nothing twice | s with C(2s, s) >= n | revolve, s snapshots: memory | "
        "runs per block | ilp at that memory: runs per block | ilp, least memory | "
        "runs per block | bound | log2 n |"
    )
    print("|---" * 10 + "|")
    for num in (int(n) for n in options.blocks.split(",")):
        print(row(num, options.time_limit), flush=True)


def row(num: int, time_limit_s: float) -> str:
    """One chain's figures; the schedules were replayed by the simulator."""
    graph = chain(num)
    facts = GraphFacts(graph)
    snapshots = next(s for s in range(1, num + 1) if math.comb(2 * s, s) >= num)
    segments = SegmentChain(facts, num)
    # The chain's input is Revolve's first snapshot.
    order = segments.order(moves(0, len(segments.ops), snapshots - 1))
    revolve = simulate(graph, with_frees(graph, order))
    same = solve(
        Problem(graph=graph, budget_bytes=revolve.peak_bytes),
        method="ilp",
        time_limit_s=time_limit_s,
    )
    least = minimum_budget(graph, method="ilp", time_limit_s=time_limit_s)
    lean = simulate(graph, least.schedule)
    cells = (
        str(num),
        f"{facts.evaluate(facts.baseline())[0] / _BLOCK:g}",
        str(snapshots),
        f"{revolve.peak_bytes / _BLOCK:g}",
        f"{1 + revolve.recompute_ns / 1000 / num:.2f}",
        f"{1 + same.recompute_ns / 1000 / num:.2f}",
        f"{lean.peak_bytes / _BLOCK:g}",
        f"{1 + lean.recompute_ns / 1000 / num:.2f}",
        f"{least.lower_bound_bytes / _BLOCK:g}",
        f"{math.log2(num):g}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
