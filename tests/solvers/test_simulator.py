from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autockpt_solvers import Compute, Free, Schedule, ScheduleError, simulate, with_frees
from tests.solvers.graphs import Builder, graphs


def tiny():
    """x -> y -> out; mask serves the backward only; dy and dx go back."""
    b = Builder()
    x = b.add("x", sizes=(10,), time=2)
    y = b.add("y", [x], sizes=(20,), time=3, workspace_bytes=4)
    b.add("out", [y], sizes=(1,), output=True)
    mask = b.add("mask", [x], sizes=(5,), time=7, recomputable=False)
    dy = b.add("dy", [y, mask], sizes=(8,), is_backward=True)
    b.add("dx", [dy, x], sizes=(3,), is_backward=True, output=True)
    return b.graph()


X, Y, OUT, MASK, DY, DX = range(6)


def run(graph, *steps):
    return simulate(graph, Schedule(steps=steps))


def test_bytes_are_counted_at_every_step():
    g = tiny()
    t = simulate(g, with_frees(g, [X, Y, OUT, MASK, DY, DX]))
    # x; y with workspace; out; mask; dy then frees of y and mask; dx then frees of x and dy
    assert t.live_bytes == (10, 34, 31, 36, 44, 24, 19, 22, 12, 4)
    assert (t.peak_bytes, t.peak_step) == (44, 4)
    assert t.recompute_ns == 0
    assert t.num_recomputed_ops == 0
    assert t.saved == (X, Y, OUT)


def test_recomputing_costs_time_and_saves_bytes():
    g = tiny()
    t = simulate(g, with_frees(g, [X, Y, OUT, MASK, Y, DY, DX]))
    assert t.recompute_ns == 3
    assert t.num_recomputed_ops == 1
    assert t.saved == (X, OUT)


def test_with_frees_frees_each_instance_after_its_last_read():
    g = tiny()
    schedule = with_frees(g, [X, Y, OUT, MASK, Y, DY, DX])
    assert schedule.steps[:4] == (Compute(X), Compute(Y), Compute(OUT), Free(Y))
    assert schedule.compute_order == (X, Y, OUT, MASK, Y, DY, DX)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([Y], "step 0: op 'y' reads storage 'x', which is not live"),
        ([X, Y, OUT, MASK, Y, X, MASK], "op 'mask' runs a second time"),
        ([X, Y, MASK, DY], "op 'dy' runs before 1 forward ops"),
        ([X, Y, OUT, MASK, DY], "op 'dx' is needed and never runs"),
        ([X, Y], "op 'out' is needed and never runs"),
        ([9], "op 9 is not in the graph"),
        ([X, Y, OUT, OUT], "writes storage 'out', which is still live"),
    ],
)
def test_orders_that_cannot_run(order, message):
    g = tiny()
    steps = with_frees(g, [i for i in order if i < 6]).steps if max(order) < 6 else ()
    if not steps:
        steps = tuple(Compute(i) for i in order)
    with pytest.raises(ScheduleError, match=message):
        run(g, *steps)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Compute(X), Compute(X)], "which is still live; free it first"),
        ([Free(X)], "is freed but is not live"),
        ([Free(77)], "storage 77 is not in the graph"),
        ([Compute(X), Compute(Y), Compute(OUT), Free(OUT)], "is an output and may not be freed"),
    ],
)
def test_steps_that_cannot_run(steps, message):
    with pytest.raises(ScheduleError, match=message) as caught:
        run(tiny(), *steps)
    assert caught.value.step == len(steps) - 1


def test_what_stays_live_at_the_end_is_refused():
    g = tiny()
    steps = with_frees(g, [X, Y, OUT, MASK, DY, DX]).steps
    assert steps[-1] == Free(DY)
    with pytest.raises(ScheduleError, match="'dy' is live at the end"):
        run(g, *steps[:-1])


def test_a_dead_op_need_not_run_and_backward_ops_may_run_in_another_order():
    b = Builder()
    x = b.add("x", output=True)
    b.add("dead", [x])
    b.add("b0", [x], is_backward=True, output=True)
    b.add("b1", [x], is_backward=True, output=True)
    g = b.graph()
    assert simulate(g, with_frees(g, [0, 3, 2])).recompute_ns == 0


def test_backward_ops_may_run_again():
    b = Builder()
    b.add("x", output=True)
    g0 = b.add("b0", time=4, is_backward=True)
    b.add("b1", [g0], is_backward=True, output=True)
    b.add("b2", [g0], is_backward=True, output=True)
    g = b.graph()
    assert simulate(g, with_frees(g, [0, 1, 2, 1, 3])).recompute_ns == 4


def two_regions():
    b = Builder()
    x = b.add("x0", region=0)
    y = b.add("y0", [x], region=0)
    z = b.add("z1", [y], region=1)
    b.add("out", [z], region=1, output=True)
    d1 = b.add("d1", [z], region=1, is_backward=True)
    b.add("d0", [d1, y], region=0, is_backward=True, output=True)
    b.add("step", sizes=(), region=0, is_backward=True)
    return b.graph()


def test_a_regions_forward_ops_run_again_in_its_own_backward_only():
    g = two_regions()
    fine = with_frees(g, [0, 1, 2, 3, 2, 4, 0, 1, 5, 6])
    assert simulate(g, fine).recompute_ns == 3
    assert simulate(g, fine).saved == (1, 3)
    early = with_frees(g, [0, 1, 2, 3, 0, 1, 2, 4, 5, 6])
    with pytest.raises(ScheduleError, match="'x0' of region 0 runs while the backward of region 1"):
        simulate(g, early)
    late = with_frees(g, [0, 1, 2, 3, 4, 2, 5, 6])
    with pytest.raises(ScheduleError, match="'z1' of region 1 runs while the backward of region 0"):
        simulate(g, late)
    over = with_frees(g, [0, 1, 2, 3, 4, 5, 6, 0])
    with pytest.raises(ScheduleError, match="'x0' of region 0 runs while the backward is over"):
        simulate(g, over)
    back = with_frees(g, [0, 1, 2, 0, 3, 4, 5, 6])
    with pytest.raises(ScheduleError, match="runs in the forward pass of region 1"):
        simulate(g, back)


@given(graphs(), st.data())
def test_random_orders_with_frees_never_leave_or_lose_a_byte(graph, data):
    """with_frees on any order that respects the reads gives a schedule simulate accepts."""
    order = [i for i in range(len(graph.ops)) if graph.is_needed[i]]
    first_backward = sum(i < graph.num_forward for i in order)
    # Run one recomputable op of the current region again where its reads are at hand.
    required_done = max(
        (k + 1 for k in range(first_backward) if graph.is_required[order[k]]), default=0
    )
    again = data.draw(st.integers(0, len(graph.ops) - 1))
    place = data.draw(st.integers(0, len(order)))
    op = graph.ops[again]
    left = [graph.ops[i].region for i in order[place:] if graph.ops[i].is_backward]
    legal = (
        again in order[:place]
        and op.recomputable
        and not any(graph.is_output[s] for s in op.writes)
        and (op.is_backward or (bool(left) and place >= required_done and left[0] == op.region))
    )
    if legal:
        order.insert(place, again)
    timeline = simulate(graph, with_frees(graph, order))
    assert timeline.recompute_ns == (op.runtime_ns if legal else 0)
    assert (
        timeline.live_bytes[timeline.peak_step] == timeline.peak_bytes == max(timeline.live_bytes)
    )
    assert set(timeline.saved) >= {
        s for s in graph.outputs if graph.producer[s] < graph.num_forward
    }
