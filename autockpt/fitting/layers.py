"""The schedule of checkpointing every layer, as most libraries do it, to compare with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from autockpt_solvers import ComputeGraph, Schedule, baseline_schedule
from autockpt_solvers.schedule import with_frees

# The outermost item of a list of modules: "model.layers.3" of "model.layers.3.mlp.up_proj".
_ITEM = re.compile(r"(.*?(?:^|\.)\d+)(?:\.|$)")


def checkpointed_layers(graph: ComputeGraph) -> Schedule | None:
    """Returns the schedule of ``torch.utils.checkpoint`` around every layer; None without layers.

    A layer is an item of an outermost list of modules.
    """
    layers = {layer for layer in (layer_of(op.segment) for op in graph.ops) if layer}
    return checkpointed(graph, {layer: layer for layer in layers}) if layers else None


def checkpointed(graph: ComputeGraph, groups: Mapping[str, str]) -> Schedule:
    """Returns the schedule of ``torch.utils.checkpoint`` around groups of layers.

    The forward of a group runs again before its backward, up to the last value that the backward
    reads.

    Args:
        graph: The graph.
        groups: The group of each module that is checkpointed; none of them is inside another.
    """
    group_of = {segment: _group_of(segment, groups) for segment in {op.segment for op in graph.ops}}
    layers = [group_of[op.segment] for op in graph.ops]
    writers = {storage: at for at, op in enumerate(graph.ops) for storage in op.writes}
    read_later = {
        writers[storage]
        for op in graph.ops
        if op.is_backward
        for storage in op.reads
        if not graph.ops[writers[storage]].is_backward
    }
    replays: dict[str, list[int]] = {}
    pending: dict[str, list[int]] = {}
    for at, op in enumerate(graph.ops):
        layer = layers[at]
        if op.is_backward or not layer or not op.recomputable:
            continue
        pending.setdefault(layer, []).append(at)
        if at in read_later:
            replays.setdefault(layer, []).extend(pending.pop(layer))
    order: list[int] = []
    for at in baseline_schedule(graph).compute_order:
        if graph.ops[at].is_backward:
            read = sorted((writers[storage] for storage in graph.ops[at].reads), reverse=True)
            for layer in dict.fromkeys(layers[writer] for writer in read):
                order += replays.pop(layer, [])
        order.append(at)
    return with_frees(graph, order)


def above(path: str) -> Iterator[str]:
    """The path of a module, and those of the modules that it is in, the innermost first."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _group_of(segment: str, groups: Mapping[str, str]) -> str:
    """The group of the checkpointed module that a module is, or is in; empty if it is in none."""
    return next((groups[path] for path in above(segment) if path in groups), "")


def layer_of(segment: str) -> str:
    """Returns the layer that a module is in, or is; empty if it is in none."""
    found = _ITEM.match(segment)
    return found[1] if found else ""
