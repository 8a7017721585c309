"""Orders in slots: every change counts as the simulator does, and can be taken back."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autockpt_solvers import (
    ComputeGraph,
    Problem,
    ScheduleError,
    simulate,
    solve,
    with_frees,
)
from autockpt_solvers.methods.local.anneal_slots import vacate
from autockpt_solvers.methods.local.method import SlotAnnealer, anneal_from, without_idle_runs
from autockpt_solvers.methods.local.slots import (
    EMPTY,
    MOST_RUNS,
    count_change,
    fill_slots,
    move_run,
    peak_of,
    place_run,
    read_slots,
)
from autockpt_solvers.orders.facts import GraphFacts
from autockpt_solvers.session import Session
from tests.solvers.brute import least_recompute
from tests.solvers.graphs import chain, graphs

FREE = graphs(max_forward=7, max_backward=0, max_regions=1).filter(lambda g: any(g.is_needed))


def filled(graph, room, order=None):
    annealer = SlotAnnealer(GraphFacts(graph), GraphFacts(graph).baseline(), room, 0)
    if order is not None:
        annealer.order[: len(order)] = order
        annealer.length = len(order)
    fill_slots(annealer.order, annealer.length, annealer.slot_graph, annealer.slots, annealer.old)
    return annealer


def told(annealer):
    """The order and what is counted for it, wherever its runs stand."""
    order = np.zeros(annealer.slots.ops.size, dtype=np.int64)
    length = read_slots(order, annealer.slots)
    slots, live, *_, totals = annealer.slots
    at_runs = [int(b) for op, b in zip(slots, live, strict=True) if op != EMPTY]
    return [int(op) for op in order[:length]], at_runs, totals[0].tolist()


def assert_counts_are_right(graph, annealer, room):
    order, at_runs, (over, cost, runs, _) = told(annealer)
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
    assert peak_of(annealer.slot_graph, annealer.slots) == max(live)


def draw_change(annealer, graph, data):
    """An op, a slot it leaves and an empty slot it takes, either of them perhaps none."""
    slots, _, where, count, _ = annealer.slots
    op = data.draw(st.sampled_from([op for op in range(len(graph.ops)) if count[op]]))
    empty = [slot for slot, there in enumerate(slots) if there == EMPTY]
    kinds = ["move"]
    if GraphFacts(graph).rerunnable[op] and count[op] < MOST_RUNS and len(empty) > 2:
        kinds.append("add")
    if count[op] > 1:
        kinds.append("drop")
    kind = data.draw(st.sampled_from(kinds))
    source = int(where[op * MOST_RUNS + data.draw(st.integers(0, int(count[op]) - 1))])
    target = data.draw(st.sampled_from(empty))
    return op, EMPTY if kind == "add" else source, EMPTY if kind == "drop" else target


@given(graph=FREE, room=st.integers(0, 30), data=st.data())
def test_changes_count_as_the_simulator_does(graph, room, data):
    annealer = filled(graph, room)
    assert_counts_are_right(graph, annealer, room)
    args = (annealer.slot_graph, annealer.slots, annealer.old, annealer.new)
    for _ in range(data.draw(st.integers(1, 6))):
        op, source, target = draw_change(annealer, graph, data)
        state = [array.copy() for array in (*annealer.slots[:2], *annealer.slots[3:])]
        done = move_run(op, source, target, *args)
        if done and data.draw(st.booleans()):
            try:
                assert_counts_are_right(graph, annealer, room)
            except ScheduleError:
                # A run that nothing reads may stand after the last op that is required.
                order = told(annealer)[0]
                simulate(graph, with_frees(graph, without_idle_runs(graph, order)))
            continue
        if done:
            place_run(op, target, source, annealer.slots)
            count_change(
                op,
                target,
                source,
                annealer.slot_graph,
                annealer.slots,
                annealer.new,
                annealer.old,
            )
        again = (*annealer.slots[:2], *annealer.slots[3:])
        for before, after in zip(state, again, strict=True):
            assert before.tolist() == after.tolist()


@given(graph=FREE, data=st.data())
def test_making_room_keeps_the_order(graph, data):
    annealer = filled(graph, 10)
    args = (annealer.slot_graph, annealer.slots, annealer.old, annealer.new)
    before = told(annealer)
    for _ in range(3):
        slot = data.draw(st.integers(0, annealer.slots.ops.size - 1))
        following = [int(op) for op in annealer.slots.ops[slot:] if op != EMPTY]
        freed = vacate(slot, *args)
        assert annealer.slots.ops[freed] == EMPTY
        assert [int(op) for op in annealer.slots.ops[freed:] if op != EMPTY] == following
        assert told(annealer) == before


def test_idle_runs_are_dropped():
    graph = chain(4)
    baseline = GraphFacts(graph).baseline()
    assert without_idle_runs(graph, [0, *baseline, 2]) == baseline
    again = [*baseline[:4], 1, *baseline[4:]]
    assert without_idle_runs(graph, again) == again


@settings(max_examples=20)
@given(graph=FREE, share=st.floats(0.4, 1.0))
def test_annealing_in_slots_is_never_better_than_an_exhaustive_search(graph, share):
    baseline = simulate(graph, with_frees(graph, GraphFacts(graph).baseline())).peak_bytes
    problem = Problem(graph=graph, budget_bytes=int(baseline * share))
    least = least_recompute(graph, problem.budget_bytes)
    result = solve(problem, method="local", time_limit_s=0.05)
    if least is None:
        assert result.schedule is None
    elif result.schedule is not None:
        assert result.recompute_ns >= least


def test_every_start_counts():
    graph = chain(6)
    baseline = GraphFacts(graph).baseline()
    free = ComputeGraph(
        ops=tuple(dataclasses.replace(op, is_backward=False) for op in graph.ops),
        storages=graph.storages,
        outputs=graph.outputs,
    )
    lean = GraphFacts(graph).just_in_time([1, 3])
    peak = simulate(free, with_frees(free, lean)).peak_bytes
    assert peak < simulate(free, with_frees(free, baseline)).peak_bytes
    problem = Problem(graph=free, budget_bytes=peak)
    session = Session(graph=free, seed=0)
    attempt = anneal_from(problem, session, baseline, time_limit_s=30, others=[lean], goal_ns=99)
    timelines = [simulate(free, with_frees(free, order)) for order in attempt.orders]
    assert min(t.peak_bytes for t in timelines) <= peak
