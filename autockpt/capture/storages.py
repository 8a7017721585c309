"""Which storages the values of a graph use: what is new, what is a view, what is overwritten."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch.fx as fx

from autockpt.capture.nodes import tensors_of, written_arguments
from autockpt.torch_private.tensors import key_of_storage


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Storages:
    """Storages of a graph, by number.

    Attributes:
        size_bytes: Their sizes.
        of_node: By node: the storages that its value uses.
        external: Those that inputs and attributes of the graph bring along.
        mutated: Those that an operator writes in place.
    """

    size_bytes: tuple[int, ...]
    of_node: dict[fx.Node, tuple[int, ...]]
    external: frozenset[int]
    mutated: frozenset[int]

    def read_by(self, node: fx.Node) -> set[int]:
        """The storages of a node's inputs."""
        return {s for parent in node.all_input_nodes for s in self.of_node[parent]}


def number_storages(graph: fx.Graph) -> Storages:
    """Number the storages of a graph in the order in which its nodes bring them."""
    numbers: dict[int, int] = {}
    size_bytes: list[int] = []
    of_node: dict[fx.Node, tuple[int, ...]] = {}
    external: set[int] = set()
    mutated: set[int] = set()
    keep_alive: list[Any] = []  # keys are addresses: no storage may be freed meanwhile
    for node in graph.nodes:
        if node.op == "output":
            continue
        used = []
        for tensor in tensors_of(node.meta.get("val")):
            storage = tensor.untyped_storage()
            keep_alive.append(storage)
            key = key_of_storage(storage)
            if key not in numbers:
                numbers[key] = len(size_bytes)
                size_bytes.append(storage.nbytes())
            used.append(numbers[key])
        of_node[node] = tuple(used)
        if node.op in ("placeholder", "get_attr"):
            external.update(used)
        for argument in written_arguments(node):
            mutated.update(of_node[argument])
    return Storages(
        size_bytes=tuple(size_bytes),
        of_node=of_node,
        external=frozenset(external),
        mutated=frozenset(mutated),
    )
