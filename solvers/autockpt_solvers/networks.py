"""Graphs as networkx graphs, and back.

A graph becomes bipartite: a node for each op and one for each storage, with an edge from an op to
what it writes, and from a storage to the ops that read it. So nothing is lost, and algorithms of
networkx apply. Nodes are named `("op", 3)` and `("storage", 7)`; the names of your own may differ,
as only their attributes count.
"""

from __future__ import annotations

from typing import Any

import networkx as nx

from autockpt_solvers.graph import ComputeGraph, Op, Storage

_OP_FIELDS = (
    "name",
    "runtime_ns",
    "workspace_bytes",
    "recomputable",
    "is_backward",
    "segment",
    "region",
    "is_fence",
)


def to_networkx(graph: ComputeGraph) -> nx.DiGraph:
    """Make a networkx graph; see `ComputeGraph.to_networkx`."""
    network: nx.DiGraph = nx.DiGraph()
    for index, op in enumerate(graph.ops):
        fields = {field: getattr(op, field) for field in _OP_FIELDS}
        network.add_node(("op", index), kind="op", index=index, **fields)
    outputs = {storage: at for at, storage in enumerate(graph.outputs)}
    for index, storage in enumerate(graph.storages):
        network.add_node(
            ("storage", index),
            kind="storage",
            index=index,
            name=storage.name,
            size_bytes=storage.size_bytes,
            output=outputs.get(index, -1),
        )
    for index, op in enumerate(graph.ops):
        for at, written in enumerate(op.writes):
            network.add_edge(("op", index), ("storage", written), position=at)
        for at, read in enumerate(op.reads):
            over = op.overwrites.index(read) if read in op.overwrites else -1
            network.add_edge(("storage", read), ("op", index), position=at, overwrites=over)
    return network


def from_networkx(network: nx.DiGraph) -> ComputeGraph:
    """Make a graph of a networkx graph; see `ComputeGraph.from_networkx`."""
    if not isinstance(network, nx.DiGraph) or network.is_multigraph():
        raise TypeError(f"a graph is made of a networkx.DiGraph, got {type(network).__name__}")
    nodes = {kind: _nodes_of(network, kind) for kind in ("op", "storage")}
    for node, data in network.nodes(data=True):
        if data.get("kind") not in nodes:
            raise ValueError(
                f"node {node!r} has kind {data.get('kind')!r}; it must be 'op' or 'storage'"
            )
    storage_index = {node: index for index, node in enumerate(nodes["storage"])}
    for source, target in network.edges:
        if (source in storage_index) == (target in storage_index):
            raise ValueError(
                f"the edge from {source!r} to {target!r} must join an op and a storage: ops write "
                "storages, and other ops read these"
            )
    outputs = [
        (at, index)
        for node, index in storage_index.items()
        if (at := _value(network, node, "output", -1)) >= 0
    ]
    return ComputeGraph(
        ops=tuple(_op(network, node, storage_index) for node in nodes["op"]),
        storages=tuple(
            Storage(
                name=str(_value(network, node, "name", node)),
                size_bytes=_value(network, node, "size_bytes"),
            )
            for node in nodes["storage"]
        ),
        outputs=tuple(index for _, index in sorted(outputs)),
    )


def _nodes_of(network: nx.DiGraph, kind: str) -> list[Any]:
    """The nodes of a kind, by their index; without one, in the order in which they were added."""
    nodes = [node for node, data in network.nodes(data=True) if data.get("kind") == kind]
    numbered = [(network.nodes[node].get("index", at), at) for at, node in enumerate(nodes)]
    return [nodes[at] for _, at in sorted(numbered)]


def _op(network: nx.DiGraph, node: Any, storage_index: dict[Any, int]) -> Op:
    given = network.nodes[node]
    fields = {field: given[field] for field in _OP_FIELDS if field in given}
    fields.setdefault("name", str(node))
    fields["runtime_ns"] = _value(network, node, "runtime_ns")
    reads = _in_order((network.edges[s, node], s) for s in network.predecessors(node))
    writes = _in_order((network.edges[node, s], s) for s in network.successors(node))
    over = [(network.edges[s, node].get("overwrites", -1), storage_index[s]) for s in reads]
    return Op(
        **fields,
        reads=tuple(storage_index[s] for s in reads),
        writes=tuple(storage_index[s] for s in writes),
        overwrites=tuple(storage for at, storage in sorted(over) if at >= 0),
    )


def _in_order(edges: Any) -> list[Any]:
    numbered = [(data.get("position", at), at, node) for at, (data, node) in enumerate(edges)]
    return [node for _, _, node in sorted(numbered, key=lambda entry: entry[:2])]


def _value(network: nx.DiGraph, node: Any, name: str, default: Any = None) -> Any:
    value = network.nodes[node].get(name, default)
    if value is None:
        raise ValueError(f"node {node!r} has no {name}; give it one")
    return value
