"""The data that a page carries for its script: packed, and inert whatever names contain."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

from autockpt.report.kinds import MemoryKind
from autockpt.report.page.formats import inert
from autockpt.report.page.groups import GROUPS, group_of
from autockpt.report.timeline.marked_ops import OPTIMIZER_STEP
from autockpt.report.timeline.replay import Replay
from autockpt.report.timeline.value import Timeline
from autockpt_solvers import Compute


def packed(text: str) -> str:
    """Returns a text compressed with gzip, in base 64; the same for the same text."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode("ascii")


def dumps(data: Any) -> str:
    """Returns data as JSON without blanks."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def graph_data(timeline: Timeline) -> dict[str, Any]:
    """The operations and storages of a timeline's graph.

    `ops` are `[name, module, line, ns, workspace bytes, is_backward, is_optimizer]` with indices
    into `modules` and `lines` (-1 for none), `storages` are `[name, bytes, op]`.
    """
    graph = timeline.graph
    modules: dict[str, int] = {}
    lines = timeline.places.lines
    of_ops = timeline.places.of_ops or (-1,) * len(graph.ops)
    return {
        "ops": [
            [
                inert(op.name),
                modules.setdefault(inert(op.segment), len(modules)),
                of_ops[index],
                op.runtime_ns,
                op.workspace_bytes,
                int(op.is_backward),
                int(op.name == OPTIMIZER_STEP),
            ]
            for index, op in enumerate(graph.ops)
        ],
        "modules": list(modules),
        "lines": [[inert(str(line)), inert(line.code)] for line in lines],
        "storages": [
            [inert(timeline.name_of(index)), storage.size_bytes, graph.producer[index]]
            for index, storage in enumerate(graph.storages)
        ],
    }


def timeline_data(timeline: Timeline, kinds: dict[str, int], graph: int = 0) -> dict[str, Any]:
    """The moments of a timeline.

    `steps` has op k as `k` and freeing storage k as `-1 - k`. `lives` are flat quadruples: a
    storage, the first moment that it is in memory, the first that it is not, and its kind. `fixed`
    and `alone` are `[kind, bytes]`, all the time and at the peak.

    Args:
        timeline: The timeline.
        kinds: Numbers for kinds; kinds without one get the next.
        graph: Index of its graph among those of the page.
    """

    def number(kind: str) -> int:
        return kinds.setdefault(kind, len(kinds))

    replay = Replay(
        graph=timeline.graph, saved=timeline.saved, outside=set(timeline.places.outside)
    )
    begun: dict[int, tuple[int, str]] = {}
    lives: list[int] = []

    def ended(storage: int, at: int) -> None:
        first, kind = begun.pop(storage)
        if timeline.graph.size(storage):
            lives.extend((storage, first, at, number(kind)))

    for at, step in enumerate(timeline.schedule.steps):
        replay.step(step)
        gone = timeline.graph.ops[step.op].overwrites if isinstance(step, Compute) else ()
        for storage in gone if isinstance(step, Compute) else (step.storage,):
            ended(storage, at)
        if isinstance(step, Compute):
            for storage in timeline.graph.ops[step.op].writes:
                begun[storage] = at, replay.live[storage]
    for storage in list(begun):
        ended(storage, len(timeline.schedule.steps))
    alone_bytes = timeline.bytes_by_kind(timeline.peak).get(MemoryKind.EAGER_ALONE, 0)
    return {
        "graph": graph,
        "steps": [
            step.op if isinstance(step, Compute) else -1 - step.storage
            for step in timeline.schedule.steps
        ],
        "lives": lives,
        "fixed": [[number(kind), size] for kind, size in timeline.fixed.items() if size],
        "alone": [number(MemoryKind.EAGER_ALONE), alone_bytes],
        "peak": timeline.peak,
        "forwardEnd": timeline.forward_end,
    }


def kinds_data(kinds: dict[str, int]) -> list[list[Any]]:
    """Names and groups of numbered kinds."""
    return [[kind, group_of(kind)] for kind in kinds]


def groups_data() -> list[list[str]]:
    """Keys and labels of all groups."""
    return [[group.key, group.label] for group in GROUPS]
