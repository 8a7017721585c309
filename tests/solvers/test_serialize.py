from __future__ import annotations

import json

import pytest
from hypothesis import given

from autockpt_solvers import (
    graph_from_json,
    graph_to_json,
    schedule_from_json,
    schedule_to_json,
    with_frees,
)
from tests.solvers.graphs import chain, graphs


@given(graphs())
def test_graphs_come_back_as_they_were(graph):
    assert graph_from_json(graph_to_json(graph)) == graph


@given(graphs())
def test_schedules_come_back_as_they_were(graph):
    schedule = with_frees(graph, [i for i, needed in enumerate(graph.is_needed) if needed])
    assert schedule_from_json(schedule_to_json(schedule)) == schedule


def broken(**changes):
    return json.dumps({**json.loads(graph_to_json(chain(1))), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", 'not a file of format "autockpt-graph": it is a list; it must be a JSON object'),
        (
            schedule_to_json(with_frees(chain(1), [0])),
            "it is an object of format 'autockpt-schedule' with .*as `graph_to_json` writes it",
        ),
        (broken(version=2), "version 2 of autockpt-graph is not known; it must be 1: write the"),
        (broken(more=1), r"fields \['ops', 'outputs', 'storages'\] beside .*not \['more', 'ops'"),
        (broken(ops=3), "ops must be a list, not int"),
        (broken(ops=[{}]), "must have the fields"),
        (broken(outputs=["x"]), "outputs: 'x' must be an integer"),
        (broken(outputs=[99]), "outputs name storage 99"),
        (broken(storages=[["a"]]), "must be a pair .name, bytes."),
        (broken(storages=[["a", 1.5]]), "bytes: 1.5 must be an integer"),
        (broken(storages=[["a", 10**400]] * 6), r"the graph has 6\.0e\+400 bytes in all"),
    ],
)
def test_what_is_no_graph_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        graph_from_json(text)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("runtime_ns", True, "op 'f0': runtime_ns is True; it must be an integer"),
        ("is_fence", 1, "op 'f0': is_fence is 1; it must be true or false"),
        ("overwrites", 1, "op 'f0': overwrites is 1; it must be a list"),
    ],
)
def test_an_op_with_a_wrong_type_is_refused(field, value, message):
    data = json.loads(graph_to_json(chain(1)))
    data["ops"][0][field] = value
    with pytest.raises(ValueError, match=message):
        graph_from_json(json.dumps(data))
