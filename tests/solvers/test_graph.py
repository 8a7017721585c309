from __future__ import annotations

import pytest

from autockpt_solvers import ComputeGraph, Op, Problem, Storage
from autockpt_solvers.orders.cuts import narrow_places
from tests.solvers.graphs import Builder, chain


def op(name, reads=(), writes=(), **fields):
    return Op(name=name, runtime_ns=1, reads=reads, writes=writes, **fields)


def make(*ops, num_storages, outputs=()):
    storages = tuple(Storage(name=f"s{i}", size_bytes=1) for i in range(num_storages))
    return ComputeGraph(ops=ops, storages=storages, outputs=outputs)


def test_derived_facts_of_a_small_graph():
    b = Builder()
    x = b.add("x", time=2)
    y = b.add("y", [x], time=3, output=True)
    mask = b.add("mask", [x], time=5)
    b.add("dead", [y], time=7)
    b.add("effect", [y], sizes=())
    b.add("dy", [mask, y], is_backward=True, time=11)
    g = b.graph()
    assert g.producer == (0, 1, 2, 3, 5)
    assert g.readers[x] == (1, 2)
    assert g.readers[y] == (3, 4, 5)
    assert g.num_forward == 5
    assert g.is_required == (True, True, False, False, True, False)
    assert g.is_needed == (True, True, True, False, True, True)
    assert g.total_runtime_ns == 2 + 3 + 5 + 1 + 11
    assert g.is_output == (False, True, False, False, False)


def test_equal_content_is_equal_and_derived_facts_are_not_compared():
    assert chain(4) == chain(4)
    assert chain(4) != chain(5)
    assert hash(chain(4)) == hash(chain(4))
    assert "producer" not in repr(chain(1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Storage(name="a", size_bytes=-1), "'a' has -1 bytes"),
        (lambda: op("a", workspace_bytes=-2), "workspace_bytes -2"),
        (lambda: op("a", reads=(1, 1)), "names a storage twice"),
        (lambda: op("a", reads=(1,), writes=(1,)), "reads a storage it writes"),
        (lambda: make(op("a", writes=(3,)), num_storages=1), "names storage 3"),
        (lambda: make(op("a", writes=(0,)), num_storages=1, outputs=(1,)), "outputs name"),
        (lambda: make(op("a", writes=(0,)), num_storages=1, outputs=(0, 0)), "twice"),
        (lambda: make(op("a", reads=(0,)), op("b", writes=(0,)), num_storages=1), "before an op"),
        (lambda: make(op("a", writes=(0,)), op("b", writes=(0,)), num_storages=1), "exactly one"),
        (lambda: make(num_storages=1), "written by no op"),
        (lambda: make(op("a", is_backward=True), op("b"), num_storages=0), "must come first"),
        (lambda: make(op("a", region=1), op("b"), num_storages=0), "regions must rise"),
        (
            lambda: make(
                op("a", is_backward=True), op("b", is_backward=True, region=1), num_storages=0
            ),
            "regions must fall",
        ),
        (lambda: op("a", is_fence=True), "op 'a' is a fence but not a backward op"),
        (lambda: Problem(graph=chain(1), budget_bytes=-1), "budget_bytes is -1"),
        (lambda: Problem(graph=chain(1), budget_bytes=1, fixed_bytes=-1), "fixed_bytes is -1"),
    ],
)
def test_what_cannot_be_is_refused_with_a_message(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Storage(name="a", size_bytes="5"), "size_bytes of storage 'a' is '5', a str; it"),
        (lambda: Storage(name="a", size_bytes=5.0), "storage 'a' is 5.0, a float; it must be an"),
        (lambda: Storage(name="a", size_bytes=True), "is True, a bool"),
        (lambda: Op(name="a", runtime_ns=1.5, reads=(), writes=()), "runtime_ns of op 'a' is 1.5"),
        (lambda: op("a", workspace_bytes=None), "workspace_bytes of op 'a' is None, a NoneType"),
        (lambda: op("a", reads=(0.0,)), "a storage that op 'a' names is 0.0, a float"),
        (lambda: make(op("a", writes=(0,)), num_storages=1, outputs=(0.0,)), "outputs name is 0.0"),
        (lambda: Problem(graph=chain(1), budget_bytes=1e9), "budget_bytes is 1000000000.0, a flo"),
        (lambda: Problem(graph=chain(1), budget_bytes=9, fixed_bytes="1"), "fixed_bytes is '1', a"),
    ],
)
def test_what_is_no_integer_is_refused(build, message):
    """Floats were taken for bytes, and text was a TypeError of the first comparison."""
    with pytest.raises(TypeError, match=message):
        build()


def test_numbers_beyond_floats_are_refused_in_words():
    """A size of 400 digits in a file ended as an OverflowError of the message itself."""
    with pytest.raises(ValueError, match=r"has 1\.0e\+400 bytes in all; at most 9\.0e\+15"):
        ComputeGraph(
            ops=(op("a", writes=(0,)),),
            storages=(Storage(name="a", size_bytes=10**400),),
            outputs=(),
        )
    with pytest.raises(ValueError, match=r"op 'a' has region 10{400}; it must be below 65536: nu"):
        op("a", region=10**400)


def test_room_is_budget_less_fixed():
    assert Problem(graph=chain(1), budget_bytes=10, fixed_bytes=12).available_bytes == -2


@pytest.mark.parametrize(
    ("crossing", "places"),
    [
        ([0, 5, 5, 1, 5, 5, 5, 5, 5, 1, 5, 5, 0], [3, 9]),
        ([0, 5, 5, 1, 1, 1, 5, 5, 5, 5, 0], [5]),
        ([0, *[3] * 20, 0], [4, 12, 20]),
        ([0, 9, 8, 7, 6, 5, 4, 3, 0], [7]),
        ([0, 0], []),
    ],
)
def test_the_forward_pass_is_cut_where_few_bytes_cross(crossing, places):
    assert narrow_places(crossing) == places
