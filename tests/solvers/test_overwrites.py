"""Ops that write over what only they read."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autockpt_solvers import (
    Compute,
    ComputeGraph,
    Free,
    Problem,
    Schedule,
    ScheduleError,
    graph_from_json,
    graph_to_json,
    simulate,
    solve,
    with_frees,
)
from tests.solvers.graphs import Builder, graphs


def sum_of_gradients(overwrites: bool = True) -> ComputeGraph:
    """Two gradients of an activation, added; 10 bytes each."""
    b = Builder()
    x = b.add("f", sizes=(10,))
    b.add("loss", [x], output=True)
    first = b.add("first", [x], (10,), is_backward=True, recomputable=False)
    second = b.add("second", [x], (10,), is_backward=True, recomputable=False)
    over = {"overwrites": (first,)} if overwrites else {}
    total = b.add("add", [first, second], (10,), is_backward=True, recomputable=False, **over)
    b.add("end", [total], (1,), output=True, is_backward=True)
    return b.graph()


def test_memory_is_counted_once() -> None:
    schedule = with_frees(sum_of_gradients(), range(6))
    timeline = simulate(sum_of_gradients(), schedule)
    beside = simulate(
        sum_of_gradients(overwrites=False), with_frees(sum_of_gradients(False), range(6))
    )
    at = schedule.steps.index(Compute(4))
    # The loss, second, and the sum in the memory of first.
    assert timeline.live_bytes[at] == 1 + 10 + 10
    assert beside.live_bytes[at] == 1 + 10 + 10 + 10
    assert Free(2) not in schedule.steps


def test_what_was_overwritten_is_gone() -> None:
    steps = with_frees(sum_of_gradients(), range(6)).steps
    at = steps.index(Compute(4))
    with pytest.raises(ScheduleError, match="'first' is freed but is not live"):
        simulate(sum_of_gradients(), Schedule(steps=(*steps[: at + 1], Free(2), *steps[at + 1 :])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": 4, "overwrites": (0,)}, "may overwrite what it reads"),
        ({"op": 4, "overwrites": (2, 2)}, "each once"),
        ({"op": 4, "recomputable": True}, "may run again"),
        ({"op": 2, "recomputable": True}, "may run again"),
        ({"op": 3, "reads": (0, 2)}, "others read it"),
        ({"outputs": (1, 2, 5)}, "that is an output"),
        ({"sizes": {2: 11}}, "more bytes than it writes"),
    ],
)
def test_what_may_not_be_overwritten(change, message) -> None:
    graph = sum_of_gradients()
    fields = {k: v for k, v in change.items() if k not in ("op", "outputs", "sizes")}

    def changed() -> ComputeGraph:
        ops, storages = list(graph.ops), list(graph.storages)
        if "op" in change:
            ops[change["op"]] = dataclasses.replace(ops[change["op"]], **fields)
        for storage, size_bytes in change.get("sizes", {}).items():
            storages[storage] = dataclasses.replace(storages[storage], size_bytes=size_bytes)
        outputs = change.get("outputs", graph.outputs)
        return ComputeGraph(ops=tuple(ops), storages=tuple(storages), outputs=outputs)

    with pytest.raises(ValueError, match=message):
        changed()


@given(graph=graphs(), share=st.floats(0, 1))
def test_never_worse_than_with_nothing_overwritten(graph: ComputeGraph, share: float) -> None:
    beside = dataclasses.replace(
        graph, ops=tuple(dataclasses.replace(op, overwrites=()) for op in graph.ops)
    )
    most = simulate(beside, with_frees(beside, range(len(graph.ops)))).peak_bytes
    plan = solve(Problem(graph=beside, budget_bytes=int(share * most)), method="greedy")
    if plan.schedule is not None:
        same = simulate(graph, with_frees(graph, plan.schedule.compute_order))
        assert same.peak_bytes <= plan.peak_bytes
        assert same.recompute_ns == plan.recompute_ns


@given(graph=graphs())
def test_files_keep_it(graph: ComputeGraph) -> None:
    assert graph_from_json(graph_to_json(graph)) == graph
    assert ('"overwrites"' in graph_to_json(graph)) == any(op.overwrites for op in graph.ops)
