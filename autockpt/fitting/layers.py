"""The schedule of checkpointing every layer, as most libraries do it, to compare with."""

from __future__ import annotations

import re

from autockpt_solvers import ComputeGraph, Schedule, baseline_schedule
from autockpt_solvers.schedule import with_frees

# The outermost item of a list of modules: "model.layers.3" of "model.layers.3.mlp.up_proj".
_ITEM = re.compile(r"(.*?(?:^|\.)\d+)(?:\.|$)")


def checkpointed_layers(graph: ComputeGraph) -> Schedule | None:
    """Returns the schedule of ``torch.utils.checkpoint`` around every layer; None without layers.

    A layer is an item of an outermost list of modules. Its forward runs again before its backward,
    up to the last value that the backward reads.
    """
    layers = [_layer_of(op.segment) for op in graph.ops]
    if not any(layers):
        return None
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


def _layer_of(segment: str) -> str:
    found = _ITEM.match(segment)
    return found[1] if found else ""
