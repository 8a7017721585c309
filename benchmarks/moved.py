"""What moving backward ops brings: annealing over all orders, from the plan of `ilp`.

    python benchmarks/moved.py [--zoo vit,gpt2] [--shares 0.25,0.1] [--graphs .graphs]
        [--time-limit 60]

`ilp` runs the backward ops in the graph's order. Here its plan is where annealing over compute
orders begins, in which any op may move to wherever its reads allow, ops of the backward pass
included, at several temperatures. What it finds is replayed by the simulator on the graph itself.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from export import ZOO, graph_text

from autockpt_solvers import (
    ComputeGraph,
    Op,
    Problem,
    Storage,
    read_instance,
    simulate,
    solve,
    with_frees,
)
from autockpt_solvers.methods.bound import lower_bound_bytes
from autockpt_solvers.methods.local import SlotWalker
from autockpt_solvers.methods.orders import Orders

# First temperature in mean op times, and what bytes over the room weigh at first and in the end.
_WALKS = ((0.1, 0.005, 2.0), (0.02, 0.005, 2.0), (0.02, 5.0, 5.0), (0.003, 5.0, 5.0))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", default=",".join(ZOO))
    parser.add_argument("--shares", default="0.25,0.1")
    parser.add_argument("--graphs", type=Path, default=Path(".graphs"))
    parser.add_argument("--time-limit", type=float, default=60.0)
    options = parser.parse_args()
    print("| model | f | ilp | with ops moved | less % |\n|---|---|---|---|---|")
    for name in options.zoo.split(","):
        file = options.graphs / f"{name}.json"
        text = file.read_text(encoding="utf-8") if file.exists() else graph_text(name)
        graph = read_instance(text).graph
        for share in (float(share) for share in options.shares.split(",")):
            print(row(name, graph, share, options.time_limit), flush=True)


def row(name: str, graph: ComputeGraph, share: float, time_limit_s: float) -> str:
    """One model's figures at one budget."""
    orders = Orders(graph)
    least, most = lower_bound_bytes(graph), orders.evaluate(orders.baseline())[0]
    problem = Problem(graph=graph, budget_bytes=int(least + share * (most - least)))
    result = solve(problem, method="ilp", time_limit_s=time_limit_s)
    if result.schedule is None:
        return f"| {name} | {share:g} | - | - | - |"
    order = result.schedule.compute_order
    found = [moved(problem, order, walk, time_limit_s) for walk in _WALKS]
    before, after = result.recompute_ns, min([result.recompute_ns, *found])
    unit = graph.total_runtime_ns / 100
    less = 100 * (1 - after / before) if before else 0.0
    return f"| {name} | {share:g} | {before / unit:.2f} | {after / unit:.2f} | {less:.1f} |"


def moved(
    problem: Problem,
    order: tuple[int, ...],
    walk: tuple[float, float, float],
    time_limit_s: float,
) -> int:
    """Recompute time of the cheapest order met from `order` on that fits.

    Args:
        problem: The problem; its graph has one region.
        order: A valid compute order that fits.
        walk: One of `_WALKS`.
        time_limit_s: Ends the walk.
    """
    graph, turn = problem.graph, problem.graph.num_forward
    flat = without_a_turn(graph)
    first = next(place for place, op in enumerate(order) if op >= turn)
    start = [op + (op >= turn) for op in order]
    start.insert(first, turn)
    walker = SlotWalker(flat, start, problem.room_bytes, seed=0)
    unit_time, unit_bytes, *_ = walker.scale
    hot, light, heavy = walk
    walker.scale = (unit_time, unit_bytes, hot, hot / 10, light, heavy)
    walker.run(time_limit_s)
    best = walker.best_order
    assert best is not None, "the start fits"
    back = [op - (op > turn) for op in best if op != turn]
    timeline = simulate(graph, with_frees(graph, back))
    assert timeline.peak_bytes <= problem.room_bytes
    return timeline.recompute_ns


def without_a_turn(graph: ComputeGraph) -> ComputeGraph:
    """The graph as one pass.

    An op at the turn reads what the forward gives out, and all of the backward reads what it
    writes, which has no bytes.
    """
    if len({op.region for op in graph.ops}) > 1:
        raise ValueError("the graph has several regions; ops may move within one only")
    turn = graph.num_forward
    token = len(graph.storages)
    given = tuple(s for s in graph.outputs if graph.producer[s] < turn)
    ops = [dataclasses.replace(op, is_backward=False) for op in graph.ops]
    for index in range(turn, len(ops)):
        ops[index] = dataclasses.replace(ops[index], reads=(*ops[index].reads, token))
    at_turn = Op(name="turn", runtime_ns=0, reads=given, writes=(token,), recomputable=False)
    return ComputeGraph(
        ops=(*ops[:turn], at_turn, *ops[turn:]),
        storages=(*graph.storages, Storage(name="turn", size_bytes=0)),
        outputs=graph.outputs,
    )


if __name__ == "__main__":
    main()
