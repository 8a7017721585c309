"""Graphs go to networkx and come back."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given

from autockpt_solvers import ComputeGraph, baseline_schedule
from tests.solvers.graphs import Builder, chain, graphs


@given(graphs())
def test_a_graph_comes_back_as_it_went(graph: ComputeGraph) -> None:
    network = graph.to_networkx()
    assert ComputeGraph.from_networkx(network) == graph
    assert nx.is_directed_acyclic_graph(network)
    # In another order of nodes and edges, too.
    shuffled = nx.DiGraph()
    shuffled.add_nodes_from(reversed(list(network.nodes(data=True))))
    shuffled.add_edges_from(reversed(list(network.edges(data=True))))
    assert ComputeGraph.from_networkx(shuffled) == graph


def test_overwrites_come_back() -> None:
    b = Builder()
    first = b.add("first", sizes=(10,), is_backward=True, recomputable=False)
    over = {"overwrites": (first,), "recomputable": False}
    b.add("add", [first], (10,), output=True, is_backward=True, **over)
    network = b.graph().to_networkx()
    assert network.edges[("storage", 0), ("op", 1)]["overwrites"] == 0
    assert ComputeGraph.from_networkx(network) == b.graph()


def test_a_graph_of_your_own_needs_only_times_and_sizes() -> None:
    network = nx.DiGraph()
    network.add_node("encode", kind="op", runtime_ns=5)
    network.add_node("hidden", kind="storage", size_bytes=64)
    network.add_node("decode", kind="op", runtime_ns=7, is_backward=True)
    network.add_node("gradient", kind="storage", size_bytes=32, output=0)
    nx.add_path(network, ["encode", "hidden", "decode", "gradient"])
    graph = ComputeGraph.from_networkx(network)
    assert [op.name for op in graph.ops] == ["encode", "decode"]
    assert graph.outputs == (1,)
    assert baseline_schedule(graph).compute_order == (0, 1)


def _broken(change: str) -> nx.DiGraph:
    network = chain(2).to_networkx()
    if change == "kind":
        network.add_node("odd")
    elif change == "edge":
        network.add_edge(("op", 0), ("op", 1))
    elif change == "size":
        del network.nodes["storage", 0]["size_bytes"]
    return network


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("kind", "node 'odd' has kind None; it must be 'op' or 'storage'"),
        ("edge", r"the edge from \('op', 0\) to \('op', 1\) must join an op and a storage"),
        ("size", r"node \('storage', 0\) has no size_bytes; give it one"),
    ],
)
def test_what_is_no_graph_is_refused(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ComputeGraph.from_networkx(_broken(change))


def test_only_directed_graphs_are_read() -> None:
    with pytest.raises(TypeError, match=r"made of a networkx\.DiGraph, got Graph"):
        ComputeGraph.from_networkx(nx.Graph())  # type: ignore[arg-type]
