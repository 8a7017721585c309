"""The plain form of published instances, and what solving them promises."""

from __future__ import annotations

import contextlib
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autockpt_solvers import (
    Problem,
    SolveStatus,
    graph_to_json,
    read_instance,
    simulate,
    solve,
    with_frees,
)
from tests.solvers.graphs import blocks

# Two long-lived values and an expensive one; in the order of the file, all three stand at once.
PLAIN = {
    "name": "small",
    "ops": [
        {"name": "last", "duration": 3, "output_bytes": 1, "backward": True},
        {"name": "a", "duration": 5, "output_bytes": 10, "backward": False},
        {"name": "b", "duration": 7, "output_bytes": 20, "backward": False},
    ],
    "edges": [[1, 2], [2, 0], [1, 0]],
    "order": [1, 2, 0],
}


def layered(num, seed):
    """A random graph in the plain form."""
    rng = random.Random(seed)
    ops = [
        {"name": str(k), "duration": rng.randint(0, 99), "output_bytes": rng.randint(1, 50)}
        for k in range(num)
    ]
    edges = [[k, j] for j in range(1, num) for k in sorted(rng.sample(range(j), min(j, 2)))]
    return {"ops": ops, "edges": edges}


def test_the_plain_form_is_read_in_its_order():
    instance = read_instance(json.dumps(PLAIN))
    assert [op.name for op in instance.graph.ops] == ["a", "b", "last"]
    assert not any(op.is_backward for op in instance.graph.ops)
    assert instance.numbers == (1, 2, 0)
    assert instance.graph.outputs == (2,)
    assert instance.graph.ops[2].reads == (0, 1)


def test_steps_are_told_in_the_numbers_of_the_file():
    instance = read_instance(json.dumps(PLAIN))
    assert instance.steps(with_frees(instance.graph, [0, 1, 2])) == [
        ["compute", 1],
        ["compute", 2],
        ["compute", 0],
        ["free", 1],
        ["free", 2],
    ]


def test_the_projects_own_form_is_read_too():
    instance = read_instance(graph_to_json(blocks(2)))
    assert instance.graph == blocks(2)
    assert not instance.is_free
    steps = instance.steps(with_frees(blocks(2), [0, 1]))
    assert steps == [["compute", 0], ["compute", 1], ["free", 0], ["free", 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": [0, 1]}, "order must name each of the 3 ops once"),
        ({"order": [2, 1, 0]}, "before an op has written it"),
        ({"order": [0, 1, True]}, "order must name each of the 3 ops once"),
        ({"order": [0, 1, [2]]}, "order must name each of the 3 ops once"),
        ({"order": 7}, "order must name each of the 3 ops once"),
        ({"ops": 7}, "ops must be a list of objects"),
        ({"ops": [[], [], []]}, "ops must be a list of objects"),
        ({"edges": {}}, "edges must be a list of pairs"),
        ({"edges": [[1, -1]]}, r"edge \[1, -1\] must be a pair of op indices, 0 to 2"),
        ({"edges": [[1, 10**400]]}, "must be a pair of op indices, 0 to 2"),
        ({"edges": [[1.0, 2]]}, r"edge \[1.0, 2\] must be a pair"),
        ({"edges": [[1, [2]]]}, r"edge \[1, \[2\]\] must be a pair"),
        ({"edges": [[1, 2], [2, 1]]}, "before an op has written it"),
        ({"edges": [[1, 1]]}, "reads a storage it writes"),
        (
            {"ops": [{"name": "a", "duration": 1, "output_bytes": 10**30}] * 3},
            r"the graph has 3.0e\+30 bytes in all; at most",
        ),
        (
            {"ops": [{"name": "a", "duration": 1, "output_bytes": 10**400}] * 3},
            r"the graph has 3.0e\+400 bytes in all; at most",
        ),
        (
            {"ops": [{"name": "a", "duration": 10**400, "output_bytes": 1}] * 3},
            r"the graph has 3.0e\+400 ns of run time in all; at most",
        ),
        (
            {"ops": [{"name": "a", "duration": 10**15, "output_bytes": 1}] * 3},
            "ns of run time in all; at most .*: use a larger unit",
        ),
        ({"edges": [[1, 3]]}, r"edge \[1, 3\] must be a pair of op indices, 0 to 2"),
        ({"ops": [{"name": "a", "duration": 1.5, "output_bytes": 1}]}, "order must"),
        (
            {"ops": [{"name": "a", "duration": 1.5, "output_bytes": 1}], "edges": [], "order": [0]},
            "op 0: duration is 1.5; it must be an integer: round it, or use a smaller unit",
        ),
    ],
)
def test_a_wrong_file_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        read_instance(json.dumps(PLAIN | change))


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "1" * 5000, "", "nan"])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(ValueError, match=r"not JSON|not a graph: it is a number"):
        read_instance(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[]", "it is a list"),
        ('"ops"', "it is text"),
        ("null", "it is null"),
        ("{}", "it is an object with the fields none"),
        ('{"ops": [], "nodes": []}', "it is an object with the fields 'nodes', 'ops'"),
    ],
)
def test_what_is_no_graph_is_told_of_both_forms(text, what):
    """A list was "not a file of format", and the plain form, which is easy to write, not named."""
    with pytest.raises(
        ValueError, match=f'not a graph: {what}; .*"format" .*plain form, with "ops"'
    ):
        read_instance(text)


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(("ops", "edges", "order", "duration", "output_bytes", "format")),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_no_file_does_more_than_be_refused(data):
    with contextlib.suppress(ValueError):
        read_instance(json.dumps(data))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", ["auto", "ilp", "local"])
def test_free_graphs_need_less_in_another_order(method, seed):
    graph = read_instance(json.dumps(layered(30, seed))).graph
    baseline = simulate(graph, with_frees(graph, range(30))).peak_bytes
    problem = Problem(graph=graph, budget_bytes=int(baseline * 0.9))
    result = solve(problem, method=method, time_limit_s=10)
    assert result.method in ("moments", "local", "intervals")
    assert result.status is not SolveStatus.INFEASIBLE
    assert simulate(graph, result.schedule).peak_bytes <= problem.budget_bytes


def test_a_value_is_made_again_rather_than_kept():
    # `a` (40) is read first and last; between stands `wide`, which leaves no room for it.
    plain = {
        "ops": [
            {"name": "a", "duration": 2, "output_bytes": 40},
            {"name": "small", "duration": 5, "output_bytes": 5},
            {"name": "wide", "duration": 5, "output_bytes": 80},
            {"name": "narrow", "duration": 5, "output_bytes": 5},
            {"name": "last", "duration": 5, "output_bytes": 1},
        ],
        "edges": [[0, 1], [1, 2], [2, 3], [3, 4], [0, 4]],
    }
    graph = read_instance(json.dumps(plain)).graph
    result = solve(Problem(graph=graph, budget_bytes=90), time_limit_s=10)
    assert result.recompute_ns == 2
    assert result.schedule.compute_order == (0, 1, 2, 3, 0, 4)
