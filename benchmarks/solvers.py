"""Plans of the engine, proven bounds and rivals on the same graphs, as one page.

    python benchmarks/solvers.py [--instances FOLDER] [--zoo gpt2,resnet50] [--shares 0.5,0.1]
        [--layers gpt2-12,gpt2-96] [--graphs FOLDER] [--time-limit 60] [--jobs 1]
        [--only moved] [--output docs/benchmarks/solvers.md]

`--instances` holds graphs in the plain form that `autockpt solve` reads; without it that table is
left out. `--graphs` keeps the graphs of models, which take longer to capture than to solve, from
one run to the next. Every figure is measured in this run: a schedule counts only after the
simulator replayed it. Every row is made in a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numba
import ortools
from export import ZOO, graph_text
from knapsack import torch_knapsack

from autockpt_solvers import (
    ComputeGraph,
    Problem,
    Result,
    baseline_schedule,
    minimum_budget,
    read_instance,
    simulate,
    solve,
)
from autockpt_solvers.bounds.peak import lower_bound_bytes
from autockpt_solvers.bounds.recomputation import any_plan_bound_ns
from autockpt_solvers.methods.ilp.pool import OptionPool
from autockpt_solvers.methods.ilp.squeeze import is_short, squeeze
from autockpt_solvers.orders.facts import GraphFacts
from autockpt_solvers.refinement.refine import refine
from autockpt_solvers.search.backward import find_order
from autockpt_solvers.session import Session

_SHARES = (0.9, 0.8)
_RIVALS: dict[str, str | Callable[..., object]] = {
    **{name: name for name in ("greedy", "mincut", "uniform", "sqrt", "chain")},
    "torch's knapsack": torch_knapsack,
}
_STEPS_OF = ("gpt2", "bert-base", "resnet50", "unet")
_TIGHT = 0.25
_PARTS = ("zoo", "moved", "in-place", "scale", "instances")
_Row = tuple[str, ...]
_Reached = tuple[str, dict[str, float]]  # a model, and the least f that each method reached
_Made = TypeVar("_Made")


def main() -> None:
    """Solve, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--instances", type=Path)
    parser.add_argument("--zoo", default=",".join(ZOO))
    parser.add_argument("--shares", default="0.75,0.5,0.25,0.1")
    parser.add_argument("--layers", default="gpt2-12,gpt2-24,gpt2-48,gpt2-96,llama-32")
    parser.add_argument("--graphs", type=Path, default=Path(".graphs"))
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", choices=_PARTS, help="this part alone")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    parts = (options.only,) if options.only else _PARTS
    lines = list(_head(options.time_limit, options.jobs))
    limit, jobs = options.time_limit, options.jobs

    def tell(title: str, text: str, columns: _Row, rows: Iterable[_Row]) -> None:
        for line in ("", f"## {title}", "", text, "", _cells(columns), "|---" * len(columns) + "|"):
            print(line, flush=True)
            lines.append(line)
        for row in rows:
            print(_cells(row), flush=True)
            lines.append(_cells(row))
        if options.output is not None:
            options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")

    zoo = {n: _exported(options.graphs, n) for n in options.zoo.split(",") if n}
    shares = [float(share) for share in options.shares.split(",")]
    cells = [(name, text, share, limit) for name, text in zoo.items() for share in shares]
    if zoo and "zoo" in parts:
        reached: list[_Reached] = []
        tell(*_ZOO_TABLE, _noted(_mapped(_zoo_cell, cells, jobs), reached))
        tell(*_LEAST_TABLE, _least_rows(reached))
        tight = [(n, t, f, limit) for n, t, f, _ in cells if f <= _TIGHT and n in _STEPS_OF]
        tell(*_STEPS_TABLE, _mapped(_steps_row, tight, jobs))
    rows = [(name, text, limit) for name, text in zoo.items()]
    if zoo and "moved" in parts:
        tell(*_MOVED_TABLE, _mapped(_moved_row, rows, jobs))
    if zoo and "in-place" in parts:
        tell(*_IN_PLACE_TABLE, _mapped(_in_place_row, rows, jobs))
    if "scale" in parts:
        names = [n for n in options.layers.split(",") if n]
        layers = [(n, _exported(options.graphs, n), limit) for n in names]
        tell(*_SCALE_TABLE, _mapped(_scale_row, layers, 1))
    if "instances" in parts and options.instances is not None and options.instances.is_dir():
        files = sorted(options.instances.glob("*.json"))
        texts = [(file.stem, file.read_text(encoding="utf-8")) for file in files]
        cells = [(name, text, share, limit) for name, text in texts for share in _SHARES]
        tell(*_INSTANCE_TABLE, _mapped(_instance_row, cells, jobs))


def _mapped(
    function: Callable[..., _Made], cells: list[tuple[object, ...]], jobs: int
) -> Iterator[_Made]:
    """One process per call, results in order."""
    for first in range(0, len(cells), jobs):
        some = cells[first : first + jobs]
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            yield from pool.map(function, *zip(*some, strict=True))


def _cells(row: _Row) -> str:
    return f"| {' | '.join(row)} |"


def _exported(folder: Path, name: str) -> str:
    """The graph of a model as text, from the folder if it is there."""
    file = folder / f"{name}.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(graph_text(name), encoding="utf-8")
    return file.read_text(encoding="utf-8")


def _head(time_limit_s: float, jobs: int) -> Iterator[str]:
    yield "# Solvers"
    yield ""
    yield (
        f"Measured on {dt.datetime.now(tz=dt.UTC).date()} by `python benchmarks/solvers.py`: "
        f"{os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, OR-Tools {ortools.__version__}, "
        f"numba {numba.__version__}; "
        f"time limit {time_limit_s:.0f} s of wall clock per solve, {jobs} at a time. "
        "Seconds are processor time of the solve, which uses one core."
    )


_INSTANCE_TABLE = (
    "Published instances",
    "The budget is a share of the peak when every op runs once in the file's order. Any op may "
    "run again, in any order. *increase* is the time of all runs over the time of one run of each "
    "op, less 100%.",
    ("instance", "ops", "budget", "status", "increase %", "peak / budget", "seconds", "method"),
)


def _instance_row(name: str, text: str, share: float, time_limit_s: float) -> _Row:
    graph = read_instance(text).graph
    budget = int(share * _baseline_peak_bytes(graph))
    started = time.process_time()
    result = solve(Problem(graph=graph, budget_bytes=budget), time_limit_s=time_limit_s)
    status = result.status.value
    if result.schedule is None:
        status += ", proven" if result.lower_bound_bytes > budget else ", not proven"
    return (
        name,
        str(len(graph.ops)),
        f"{share:.0%}",
        status,
        _percent(graph, result),
        f"{result.peak_bytes / budget:.3f}",
        f"{time.process_time() - started:.1f}",
        result.method,
    )


_ZOO_TABLE = (
    "Graphs of the zoo (small size)",
    "The budget f lies between the bound on the least peak (f = 0) and the peak with nothing run "
    "twice (f = 1), both for backward ops in the graph's order. Figures are recomputation in % of "
    "a step's time. *any plan* is a bound for all plans, also those that move or repeat backward "
    "ops. *bound* is for plans that run each backward op once, in the order that `ilp` uses. "
    "*gap* is `ilp` minus *bound*. A - means that a method has no plan that fits.",
    ("model", "ops", "f", "any plan", "bound", "ilp", "gap", *_RIVALS, "seconds (ilp)"),
)


def _zoo_cell(name: str, text: str, share: float, time_limit_s: float) -> tuple[_Row, _Reached]:
    """A row, and the least f that each method reached on the way."""
    graph = read_instance(text).graph
    least, most = lower_bound_bytes(graph), _baseline_peak_bytes(graph)
    problem = _problem(graph, share)
    started = time.process_time()
    ours = solve(problem, method="ilp", time_limit_s=time_limit_s)
    seconds = time.process_time() - started
    rivals = {
        rival: solve(problem, method=method, time_limit_s=time_limit_s)
        for rival, method in _RIVALS.items()
    }
    reached = {
        method: (result.minimum_peak_bytes - least) / (most - least)
        for method, result in {"ilp": ours, **rivals}.items()
    }
    any_plan = any_plan_bound_ns(problem, time_limit_s=time_limit_s)
    gap = 100 * (ours.recompute_ns - ours.lower_bound_ns) / graph.total_runtime_ns
    return (
        name,
        str(len(graph.ops)),
        f"{share:g}",
        f"{100 * any_plan / graph.total_runtime_ns:.2f}",
        f"{100 * ours.lower_bound_ns / graph.total_runtime_ns:.2f}" if ours.schedule else "-",
        _percent(graph, ours),
        f"{gap:.2f}" if ours.schedule else "-",
        *(_percent(graph, result) for result in rivals.values()),
        f"{seconds:.1f}",
    ), (name, reached)


_LEAST_TABLE = (
    "Smallest budgets",
    "The least f at which a method has a plan, among the budgets above and those met while "
    "solving for them. f = 0 is the bound for plans in the graph's order, so plans that move "
    "backward ops may be below it.",
    ("model", "ilp", *_RIVALS),
)


def _noted(results: Iterable[tuple[_Row, _Reached]], reached: list[_Reached]) -> Iterator[_Row]:
    """The rows as they come; what methods reached is put aside."""
    for row, least in results:
        reached.append(least)
        yield row


def _least_rows(reached: list[_Reached]) -> Iterator[_Row]:
    for name in dict.fromkeys(name for name, _ in reached):
        own = [methods for model, methods in reached if model == name]
        yield (name, *(f"{min(m[method] for m in own):.3f}" for method in own[0]))


_STEPS_TABLE = (
    "What each step brings",
    "Recomputation in % of a step's time after each step of `ilp`, with backward ops in the "
    "graph's order. Here `ilp` searches at the budget itself, not at levels. *heuristics* is the "
    "better of greedy and mincut, *composition* combines the windows' options by minimum cuts. "
    "*nesting* adds leaner options by integer programs and nested windows, if memory is short. "
    "*refinement* is annealing over the whole graph.",
    ("model", "f", "heuristics", "composition", "+ nesting", "+ refinement"),
)


def _steps_row(name: str, text: str, share: float, time_limit_s: float) -> _Row:
    graph = read_instance(text).graph
    problem, session = _problem(graph, share), Session(graph=graph, seed=0)
    facts, budget = session.facts, problem.available_bytes
    deadline = time.monotonic() + time_limit_s
    rivals = [solve(problem, method=m, time_limit_s=time_limit_s) for m in ("greedy", "mincut")]
    found = [r.schedule.compute_order for r in rivals if r.schedule is not None]
    limit = _baseline_peak_bytes(graph)
    cells = [_cheapest(facts, found, budget)]
    pool = OptionPool(facts, session.clock, deadline)
    lean = pool.leanest(limit)
    assert lean is not None, "the baseline is a plan of windows"
    for step in ("composition", "nesting"):
        if step == "nesting" and is_short(budget, pool.evaluate(lean)[0]):
            lean = squeeze(pool, lean, limit, 0)
        plans = [p.order(pool.segments) for p in (pool.plan(budget), lean) if p is not None]
        cells.append(_cheapest(facts, plans, budget))
    found += plans
    start = facts.best(found, budget)[0]
    found += refine(problem, session, start, deadline=deadline)
    cells.append(_cheapest(facts, found, budget))
    return (name, f"{share:g}", *cells)


def _cheapest(facts: GraphFacts, found: Iterable[Iterable[int]], budget: int) -> str:
    """The cheapest order that fits, in percent."""
    evaluated = [facts.evaluate(tuple(order)) for order in found]
    costs = [recompute for peak, recompute in evaluated if peak <= budget]
    return f"{100 * min(costs) / facts.graph.total_runtime_ns:.2f}" if costs else "-"


_MOVED_TABLE = (
    "What moving backward ops brings",
    "Recomputation of `ilp` in % of a step's time, with the backward ops in the graph's order, "
    "and in another order if that promises more. *moved* counts the backward ops at another "
    "place. If it is 0, both columns show one plan.",
    (
        *("model", "moved", "f = 0.5, in order", "f = 0.5", "f = 0.25, in order", "f = 0.25"),
        *("f = 0.1, in order", "f = 0.1"),
    ),
)


def _moved_row(name: str, text: str, time_limit_s: float) -> _Row:
    graph = read_instance(text).graph
    ops = tuple(dataclasses.replace(op, is_fence=op.is_backward) for op in graph.ops)
    in_order = dataclasses.replace(graph, ops=ops)
    moved = find_order(graph, time_limit_s=time_limit_s)
    num_moved = 0 if moved is None else sum(k != op for k, op in enumerate(moved.originals))
    cells = []
    for share in (0.5, 0.25, 0.1):
        budget = _problem(graph, share).budget_bytes
        for own in (in_order, graph):
            if not num_moved and own is graph:
                cells.append(cells[-1])
                continue
            problem = Problem(graph=own, budget_bytes=budget)
            cells.append(_percent(own, solve(problem, method="ilp", time_limit_s=time_limit_s)))
    return (name, str(num_moved), *cells)


_IN_PLACE_TABLE = (
    "What writing in place brings",
    "Graphs in which backward ops overwrite an input that no other op reads, and the same graphs "
    "without that. *least* is the smallest peak that `ilp` found, in MB, without parameters and "
    "inputs. The other columns are recomputation in % of a step's time, at the budgets f = 0.25 "
    "and 0.1 of the graph with nothing in place.",
    (
        *("model", "ops in place", "least, none in place", "least", "less %"),
        *("f = 0.25, none in place", "f = 0.25", "f = 0.1, none in place", "f = 0.1"),
    ),
)


def _in_place_row(name: str, text: str, time_limit_s: float) -> _Row:
    graph = read_instance(text).graph
    num_ops = sum(bool(op.overwrites) for op in graph.ops)
    ops = tuple(dataclasses.replace(op, overwrites=()) for op in graph.ops)
    nowhere = dataclasses.replace(graph, ops=ops)
    before, after = (
        minimum_budget(own, method="ilp", time_limit_s=time_limit_s).peak_bytes / 1e6
        for own in (nowhere, graph)
    )
    cells = []
    for share in (0.25, 0.1):
        budget = _problem(nowhere, share).budget_bytes
        for own in (nowhere, graph):
            problem = Problem(graph=own, budget_bytes=budget)
            cells.append(_percent(own, solve(problem, method="ilp", time_limit_s=time_limit_s)))
    return (
        name,
        str(num_ops),
        f"{before:.2f}",
        f"{after:.2f}",
        f"{100 * (1 - after / before):.1f}",
        *cells,
    )


_SCALE_TABLE = (
    "Scale",
    "GPT-2 of n layers (batch 4 x 512), and Llama with 7 billion parameters and 32 layers (batch "
    "8 x 2048), captured on the meta device, at f = 0.25. *memory* is the most that the process "
    "had in memory, with the graph, Python and OR-Tools. *seconds* and *memory* are of the "
    "solver, without the capture.",
    ("model", "ops", "bound", "ilp", "gap", "seconds", "memory MB"),
)


def _scale_row(name: str, text: str, time_limit_s: float) -> _Row:
    graph = read_instance(text).graph
    started = time.process_time()
    result = solve(_problem(graph, 0.25), method="ilp", time_limit_s=time_limit_s)
    seconds = time.process_time() - started
    unit = 1 if sys.platform == "darwin" else 1024
    total = graph.total_runtime_ns
    return (
        name,
        str(len(graph.ops)),
        f"{100 * result.lower_bound_ns / total:.2f}",
        _percent(graph, result),
        f"{100 * (result.recompute_ns - result.lower_bound_ns) / total:.2f}",
        f"{seconds:.1f}",
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6:.0f}",
    )


def _problem(graph: ComputeGraph, share: float) -> Problem:
    least, most = lower_bound_bytes(graph), _baseline_peak_bytes(graph)
    return Problem(graph=graph, budget_bytes=int(least + share * (most - least)))


def _percent(graph: ComputeGraph, result: Result) -> str:
    if result.schedule is None:
        return "-"
    return f"{100 * result.recompute_ns / graph.total_runtime_ns:.2f}"


def _baseline_peak_bytes(graph: ComputeGraph) -> int:
    return simulate(graph, baseline_schedule(graph)).peak_bytes


if __name__ == "__main__":
    main()
