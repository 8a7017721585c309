"""What is in memory at the peak of a plan: tensors, with their modules and source lines."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from autockpt.report.timeline.value import Alive, Timeline
from autockpt.report.words.inert import inert
from autockpt.report.words.module_rows import fold
from autockpt_solvers import Compute


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Tensors of equal layers that are in memory at the peak.

    Attributes:
        module: The module that made them, with indices of equal layers as `[0-3]`.
        name: The operation that made them.
        kind: The kind, as in the ledger.
        line: The source line; empty if it is not known.
        size_bytes: Their bytes together.
        count: How many they are.
    """

    module: str
    name: str
    kind: str
    line: str
    size_bytes: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfModule:
    """Tensors of one module that are alike."""

    module: str
    tensors: tuple[Alive, ...]


def standing_at_peak(timeline: Timeline) -> list[Standing]:
    """Returns what the step itself has in memory at its peak, equal layers together, largest first.

    Args:
        timeline: The step under the plan.
    """
    if not timeline.moments:
        return []
    # Operations of equal layers differ in the number behind their name.
    alike: dict[tuple[str, object], list[Alive]] = defaultdict(list)
    for each in timeline.alive(timeline.peak):
        if each.op is not None:
            key = (_operator(each.name), each.kind, each.size_bytes, each.line)
            alike[each.module, key].append(each)
    rows = [
        (_OfModule(module=module, tensors=tuple(tensors)), (key, len(tensors)))
        for (module, key), tensors in alike.items()
    ]
    found = []
    for module, members in fold(rows):
        tensors = [tensor for member in members for tensor in member.tensors]
        first = tensors[0]
        found.append(
            Standing(
                module=module,
                name=inert(first.name if len(tensors) == 1 else _operator(first.name)),
                kind=first.kind,
                line="" if first.line is None else inert(str(first.line)),
                size_bytes=sum(each.size_bytes for each in tensors),
                count=len(tensors),
            )
        )
    return sorted(found, key=lambda each: -each.size_bytes)


def peak_place(timeline: Timeline) -> str:
    """Returns what runs at the peak: `the backward of h.3.mlp (mm_12, my_model.py:8)`."""
    if not timeline.moments:
        return ""
    step = timeline.schedule.steps[timeline.peak]
    if not isinstance(step, Compute):
        return ""
    op = timeline.graph.ops[step.op]
    phase = "backward" if timeline.peak > timeline.forward_end else "forward"
    if op.name == "optimizer step":
        return "the optimizer's step"
    again = ", running again" if timeline.moments[timeline.peak].run > 1 else ""
    line = timeline.places.line_of(step.op)
    detail = ", ".join(filter(None, (op.name, "" if line is None else str(line))))
    of = f" of {op.segment}" if op.segment else ""
    return inert(f"the {phase}{of} ({detail}{again})")


def _operator(name: str) -> str:
    head, _, number = name.rpartition("_")
    return head if head and number.isdecimal() else name
