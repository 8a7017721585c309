"""Orders in slots: every change counts as the simulator does, and can be taken back."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autockpt_solvers import (
    ComputeGraph,
    Problem,
    ScheduleError,
    SolveStatus,
    simulate,
    solve,
    with_frees,
)
from autockpt_solvers.methods.local.method import SlotWalker, improve, without_idle_runs
from autockpt_solvers.methods.local.slot_intervals import MOST_RUNS
from autockpt_solvers.methods.local.slots import (
    EMPTY,
    change,
    count_change,
    peak_of,
    place_run,
    read,
    settle,
    vacate,
)
from autockpt_solvers.orders.facts import Orders
from tests.solvers.brute import least_recompute
from tests.solvers.graphs import chain, graphs

FREE = graphs(max_forward=7, max_backward=0, max_regions=1).filter(lambda g: any(g.is_needed))


def settled(graph, room, order=None):
    walker = SlotWalker(graph, Orders(graph).baseline(), room, 0)
    if order is not None:
        walker.order[: len(order)] = order
        walker.length = len(order)
    settle(walker.order, walker.length, walker.slot_arrays, walker.slots, walker.before)
    return walker


def told(walker):
    """The order and what is counted for it, wherever its runs stand."""
    order = np.zeros(walker.slots[0].size, dtype=np.int64)
    length = read(order, walker.slots)
    slots, live, *_, totals = walker.slots
    at_runs = [int(b) for op, b in zip(slots, live, strict=True) if op != EMPTY]
    return [int(op) for op in order[:length]], at_runs, totals.tolist()


def assert_counts_are_right(graph, walker, room):
    order, at_runs, (over, cost, runs, _) = told(walker)
    schedule = with_frees(graph, order)
    timeline = simulate(graph, schedule)
    live = [
        num_bytes
        for num_bytes, step in zip(timeline.live_bytes, schedule.steps, strict=True)
        if hasattr(step, "op")
    ]
    spaces = [graph.working_bytes[op] for op in order]
    assert [b + w for b, w in zip(at_runs, spaces, strict=True)] == live
    assert over == sum(max(0, b - room) for b in live)
    assert cost == sum(graph.ops[op].runtime_ns for op in order)
    assert runs == len(order)
    assert peak_of(walker.slot_arrays, walker.slots) == max(live)


def draw_change(walker, graph, data):
    """An op, a slot it leaves and an empty slot it takes, either of them perhaps none."""
    slots, _, where, count, _ = walker.slots
    op = data.draw(st.sampled_from([op for op in range(len(graph.ops)) if count[op]]))
    empty = [slot for slot, there in enumerate(slots) if there == EMPTY]
    kinds = ["move"]
    if Orders(graph).rerunnable[op] and count[op] < MOST_RUNS and len(empty) > 2:
        kinds.append("add")
    if count[op] > 1:
        kinds.append("drop")
    kind = data.draw(st.sampled_from(kinds))
    source = int(where[op * MOST_RUNS + data.draw(st.integers(0, int(count[op]) - 1))])
    target = data.draw(st.sampled_from(empty))
    return op, EMPTY if kind == "add" else source, EMPTY if kind == "drop" else target


@given(graph=FREE, room=st.integers(0, 30), data=st.data())
def test_changes_count_as_the_simulator_does(graph, room, data):
    walker = settled(graph, room)
    assert_counts_are_right(graph, walker, room)
    args = (walker.slot_arrays, walker.slots, walker.before, walker.after)
    for _ in range(data.draw(st.integers(1, 6))):
        op, source, target = draw_change(walker, graph, data)
        state = [array.copy() for array in (*walker.slots[:2], *walker.slots[3:])]
        done = change(op, source, target, *args)
        if done and data.draw(st.booleans()):
            try:
                assert_counts_are_right(graph, walker, room)
            except ScheduleError:
                # A run that nothing reads may stand after the last op that is required.
                order = told(walker)[0]
                simulate(graph, with_frees(graph, without_idle_runs(graph, order)))
            continue
        if done:
            place_run(op, target, source, walker.slots)
            count_change(
                op,
                target,
                source,
                walker.slot_arrays,
                walker.slots,
                walker.after,
                walker.before,
            )
        again = (*walker.slots[:2], *walker.slots[3:])
        for before, after in zip(state, again, strict=True):
            assert before.tolist() == after.tolist()


@given(graph=FREE, data=st.data())
def test_making_room_keeps_the_order(graph, data):
    walker = settled(graph, 10)
    args = (walker.slot_arrays, walker.slots, walker.before, walker.after)
    before = told(walker)
    for _ in range(3):
        slot = data.draw(st.integers(0, walker.slots[0].size - 1))
        following = [int(op) for op in walker.slots[0][slot:] if op != EMPTY]
        freed = vacate(slot, *args)
        assert walker.slots[0][freed] == EMPTY
        assert [int(op) for op in walker.slots[0][freed:] if op != EMPTY] == following
        assert told(walker) == before


def test_idle_runs_are_dropped():
    graph = chain(4)
    baseline = Orders(graph).baseline()
    assert without_idle_runs(graph, [0, *baseline, 2]) == baseline
    again = [*baseline[:4], 1, *baseline[4:]]
    assert without_idle_runs(graph, again) == again


@settings(max_examples=20)
@given(graph=FREE, share=st.floats(0.4, 1.0))
def test_annealing_in_slots_is_never_better_than_an_exhaustive_search(graph, share):
    baseline = simulate(graph, with_frees(graph, Orders(graph).baseline())).peak_bytes
    problem = Problem(graph=graph, budget_bytes=int(baseline * share))
    least = least_recompute(graph, problem.budget_bytes)
    result = solve(problem, method="local", time_limit_s=0.05)
    if least is None:
        assert result.status is SolveStatus.INFEASIBLE
    elif result.status is not SolveStatus.INFEASIBLE:
        assert result.recompute_ns >= least


def test_interpreted_and_compiled_walks_are_the_same():
    script = (
        "import sys\n"
        "if sys.argv[1] == 'interpreted': sys.modules['numba'] = None\n"
        "import json\n"
        "from autockpt_solvers import read_instance\n"
        "from autockpt_solvers import compiling\n"
        "from autockpt_solvers.methods.local import method as local\n"
        "from autockpt_solvers.orders.facts import Orders\n"
        "from tests.solvers.test_instances import layered\n"
        "assert compiling.IS_COMPILED is (sys.argv[1] == 'compiled')\n"
        "graph = read_instance(json.dumps(layered(20, 1))).graph\n"
        "walker = local.SlotWalker(graph, Orders(graph).baseline(), 150, 1)\n"
        "walker.steps = 3 * 2048\n"
        "walker.run(1000)\n"
        "print(walker.found.tolist(), walker.best_order, walker.lean_order)\n"
    )
    pytest.importorskip("numba")
    told = [
        subprocess.run(
            [sys.executable, "-c", script, how], check=True, capture_output=True, text=True
        ).stdout
        for how in ("interpreted", "compiled")
    ]
    assert told[0] == told[1]
    assert "[]" not in told[0]


def test_every_start_counts():
    graph = chain(6)
    baseline = Orders(graph).baseline()
    free = ComputeGraph(
        ops=tuple(dataclasses.replace(op, is_backward=False) for op in graph.ops),
        storages=graph.storages,
        outputs=graph.outputs,
    )
    lean = Orders(graph).just_in_time([1, 3])
    peak = simulate(free, with_frees(free, lean)).peak_bytes
    assert peak < simulate(free, with_frees(free, baseline)).peak_bytes
    problem = Problem(graph=free, budget_bytes=peak)
    attempt = improve(problem, baseline, time_limit_s=30, seed=0, others=[lean], goal_ns=99)
    timelines = [simulate(free, with_frees(free, order)) for order in attempt.orders]
    assert min(t.peak_bytes for t in timelines) <= peak
