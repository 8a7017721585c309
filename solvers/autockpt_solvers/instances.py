"""Graphs from other sources, in the plain form of published instances.

The plain form is a JSON object with `ops` (each with `name`, `duration` in any unit,
`output_bytes`, and perhaps `backward`), `edges` (pairs of producer and consumer) and perhaps
`order`, a topological order of the ops. Each op has one output. Any op may run again, at any time.
Outputs that nothing reads stay until the end.

Such a graph becomes one of forward ops only; `backward` is ignored. `order` changes the indices of
the ops; `Instance.numbers` has those of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autockpt_solvers.graph import ComputeGraph, Op, Storage
from autockpt_solvers.schedule import Compute
from autockpt_solvers.serialize import describe, graph_from_json, parse_json

if TYPE_CHECKING:
    from autockpt_solvers.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A graph read from a file.

    Attributes:
        graph: The graph.
        numbers: Per op (and per storage, in the plain form), its index in the file.
        is_free: Whether it is in the plain form: any op may run again, in any order.
    """

    graph: ComputeGraph
    numbers: tuple[int, ...]
    is_free: bool

    def steps(self, schedule: Schedule) -> list[list[str | int]]:
        """A schedule as `["compute", op]` and `["free", storage]`, with the file's indices."""
        if not self.is_free:
            return [
                ["compute", s.op] if isinstance(s, Compute) else ["free", s.storage]
                for s in schedule.steps
            ]
        return [
            ["compute", self.numbers[s.op]]
            if isinstance(s, Compute)
            else ["free", self.numbers[s.storage]]
            for s in schedule.steps
        ]


def read_instance(text: str) -> Instance:
    """Read a graph in the form of `graph_to_json` or in the plain form.

    Args:
        text: The file's text.

    Returns:
        The graph.

    Raises:
        ValueError: The text is neither, or not a valid graph.
    """
    data = parse_json(text)
    if isinstance(data, dict) and "format" not in data and {"ops", "edges"} <= set(data):
        return _plain(data)
    if not isinstance(data, dict) or "format" not in data:
        raise ValueError(
            f'not a graph: {describe(data)}; it must be a JSON object, either with the "format" '
            "of a file that `autockpt graph` or `graph_to_json` wrote, or in the plain form, with "
            '"ops" (each with "duration" and "output_bytes"), "edges" and perhaps "order"'
        )
    graph = graph_from_json(text)
    return Instance(graph=graph, numbers=tuple(range(len(graph.ops))), is_free=False)


def _plain(data: dict[str, Any]) -> Instance:
    entries = data["ops"]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError('ops must be a list of objects, each with "duration" and "output_bytes"')
    num = len(entries)
    order = data.get("order", list(range(num)))
    if not _are_indices(order, num) or len(order) != num or len(set(order)) != num:
        raise ValueError(
            f"order must name each of the {num} ops once, by its place in the list of ops: leave "
            "it out if they are in order already"
        )
    if not isinstance(data["edges"], list):
        raise ValueError("edges must be a list of pairs of op indices")  # noqa: TRY004
    place = {number: index for index, number in enumerate(order)}
    reads: list[set[int]] = [set() for _ in range(num)]
    read = set()
    for edge in data["edges"]:
        if not _are_indices(edge, num) or len(edge) != 2:
            raise ValueError(f"edge {edge!r} must be a pair of op indices, 0 to {num - 1}")
        producer, consumer = edge
        reads[place[consumer]].add(place[producer])
        read.add(place[producer])
    ops, storages = [], []
    for index, number in enumerate(order):
        entry = entries[number]
        for field in ("duration", "output_bytes"):
            if type(entry.get(field)) is not int:
                raise ValueError(
                    f"op {number}: {field} is {entry.get(field)!r}; it must be an integer: round "
                    "it, or use a smaller unit"
                )
        name = str(entry.get("name", number))
        storages.append(Storage(name=name, size_bytes=entry["output_bytes"]))
        ops.append(
            Op(
                name=name,
                runtime_ns=entry["duration"],
                reads=tuple(sorted(reads[index])),
                writes=(index,),
            )
        )
    outputs = tuple(index for index in range(num) if index not in read)
    graph = ComputeGraph(ops=tuple(ops), storages=tuple(storages), outputs=outputs)
    return Instance(graph=graph, numbers=tuple(order), is_free=True)


def _are_indices(value: object, count: int) -> bool:
    """Whether it is a list of integers from 0 to `count` - 1."""
    return isinstance(value, list) and all(type(k) is int and 0 <= k < count for k in value)
