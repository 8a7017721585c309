"""Plans of the engine for published instances and for the zoo's graphs, as one table each.

    python benchmarks/solvers.py [--instances FOLDER] [--zoo gpt2,resnet50] [--time-limit 60]
        [--output docs/benchmarks/solvers.md]

FOLDER holds graphs in the plain form that `autockpt solve` reads; without it that table is left
out. Every figure is measured in this run: a schedule counts only after the simulator replayed it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import ortools

from autockpt_solvers import (
    ComputeGraph,
    Problem,
    Result,
    read_instance,
    simulate,
    solve,
    with_frees,
)
from autockpt_solvers.methods.bound import lower_bound_bytes
from autockpt_solvers.methods.orders import Orders

_SHARES = (0.9, 0.8)
_ZOO_SHARES = (0.75, 0.5, 0.25, 0.1)
_RIVALS = ("greedy", "mincut", "uniform", "sqrt", "chain", "revolve")


def main() -> None:
    """Solve, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--instances", type=Path)
    parser.add_argument("--zoo", default="gpt2,llama,vit,resnet50,unet")
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = [*_head(options.time_limit)]
    if options.instances is not None and options.instances.is_dir():
        lines += _told(_instance_rows(options.instances, options.time_limit))
    names = [name for name in options.zoo.split(",") if name]
    if names:
        lines += [*_told(_zoo_rows(names, options.time_limit))]
    if options.output is not None:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _told(rows: Iterator[str]) -> Iterator[str]:
    """The rows, printed as they come."""
    for row in rows:
        print(row, flush=True)
        yield row


def _head(time_limit_s: float) -> Iterator[str]:
    compiled = "with" if importlib.util.find_spec("numba") else "without"
    yield "---\norphan: true\n---\n"
    yield "# Solvers"
    yield ""
    yield (
        f"Measured on {dt.datetime.now(tz=dt.UTC).date()} by `python benchmarks/solvers.py`: "
        f"{os.cpu_count()} cores ({platform.machine()}, shared with other work), "
        f"Python {platform.python_version()}, OR-Tools {ortools.__version__}, {compiled} numba; "
        f"time limit {time_limit_s:.0f} s per solve, one core used by annealing."
    )


def _instance_rows(folder: Path, time_limit_s: float) -> Iterator[str]:
    yield ""
    yield "## Published instances"
    yield ""
    yield (
        "Budget: share of the peak when every op runs once in the file's order. Any op may run "
        "again, in any order. Increase: time of all runs over time of one run each, less 100%."
    )
    yield ""
    yield "| instance | ops | budget | status | increase % | peak / budget | seconds | method |"
    yield "|---|---|---|---|---|---|---|---|"
    for file in sorted(folder.glob("*.json")):
        graph = read_instance(file.read_text(encoding="utf-8")).graph
        for share in _SHARES:
            budget = int(share * _baseline_peak_bytes(graph))
            problem = Problem(graph=graph, budget_bytes=budget)
            result = solve(problem, time_limit_s=time_limit_s)
            status = result.status.value
            if result.schedule is None:
                proven = lower_bound_bytes(graph) > budget
                status += ", proven" if proven else ", not proven"
            cells = (
                file.stem,
                str(len(graph.ops)),
                f"{share:.0%}",
                status,
                _percent(graph, result),
                f"{result.peak_bytes / budget:.3f}",
                f"{result.solve_time_s:.1f}",
                result.method,
            )
            yield f"| {' | '.join(cells)} |"


def _zoo_rows(names: list[str], time_limit_s: float) -> Iterator[str]:
    yield ""
    yield "## Graphs of the zoo (small size)"
    yield ""
    yield (
        "Budget f: bound on the least peak + f x (peak with nothing run twice - that bound). "
        "Increase as above; the bound is for plans that run each backward op once, in order; "
        "- where a method has no plan that fits."
    )
    yield ""
    rivals = " | ".join(_RIVALS)
    yield f"| model | ops | f | bound % | auto % | {rivals} | seconds (auto) | method |"
    yield "|---|---|---|---|---|" + "---|" * (len(_RIVALS) + 2)
    for name in names:
        graph = _zoo_graph(name)
        peak, least = _baseline_peak_bytes(graph), lower_bound_bytes(graph)
        for share in _ZOO_SHARES:
            problem = Problem(graph=graph, budget_bytes=int(least + share * (peak - least)))
            result = solve(problem, time_limit_s=time_limit_s)
            others = (solve(problem, method=m, time_limit_s=time_limit_s) for m in _RIVALS)
            cells = (
                name,
                str(len(graph.ops)),
                f"{share:g}",
                f"{100 * result.lower_bound_ns / graph.total_runtime_ns:.2f}",
                _percent(graph, result),
                *(_percent(graph, rival) for rival in others),
                f"{result.solve_time_s:.1f}",
                result.method,
            )
            yield f"| {' | '.join(cells)} |"


def _percent(graph: ComputeGraph, result: Result) -> str:
    if result.schedule is None:
        return "-"
    return f"{100 * result.recompute_ns / graph.total_runtime_ns:.2f}"


def _baseline_peak_bytes(graph: ComputeGraph) -> int:
    return simulate(graph, with_frees(graph, Orders(graph).baseline())).peak_bytes


def _zoo_graph(name: str) -> ComputeGraph:
    import autockpt
    from autockpt import zoo

    example = zoo.build(name, "small", device="cpu")
    plan = autockpt.plan(
        example.model,
        "100%",
        sample_args=example.args,
        sample_kwargs=dict(example.kwargs),
        loss_fn=example.loss_fn,
        method="none",
    )
    assert plan.graph is not None
    return plan.graph


if __name__ == "__main__":
    main()
