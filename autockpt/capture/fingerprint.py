"""A hash of a graph, equal for graphs that one plan serves."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import torch.fx as fx

from autockpt.capture.nodes import tensors_of


def constants(graph: fx.Graph) -> str:
    """A hash of the numbers in a graph that no plan depends on, but its bits do: floats."""
    digest = hashlib.sha256()

    def note(argument: Any) -> Any:
        if isinstance(argument, float):
            digest.update(argument.hex().encode())
        return argument

    for node in graph.nodes:
        fx.node.map_aggregate((node.args, dict(sorted(node.kwargs.items()))), note)
        digest.update(b"|")
    return digest.hexdigest()


def fingerprint(graph: fx.Graph) -> str:
    """A hash of operators, arguments, layouts and wiring: equal for fake and real inputs."""
    digest = hashlib.sha256()
    numbers: dict[fx.Node, int] = {}

    def describe(argument: Any) -> str:
        if isinstance(argument, fx.Node):
            return f"%{numbers[argument]}"
        if isinstance(argument, torch.device):
            # Each rank of a distributed run has its own device.
            return argument.type
        # A plan does not depend on the value of a scale or a probability.
        return "float" if isinstance(argument, float) else repr(argument)

    for number, node in enumerate(graph.nodes):
        numbers[node] = number
        arguments = fx.node.map_aggregate((node.args, dict(sorted(node.kwargs.items()))), describe)
        values = [
            (tuple(t.shape), tuple(t.stride()), str(t.dtype), t.device.type)
            for t in tensors_of(node.meta.get("val"))
        ]
        target = "" if node.op in ("placeholder", "output", "get_attr") else str(node.target)
        digest.update(f"{node.op}|{target}|{arguments}|{values}\n".encode())
    return digest.hexdigest()
