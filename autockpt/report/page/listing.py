"""The forward and the backward of a plan as readable code."""

from __future__ import annotations

from autockpt.report.page.formats import format_bytes, inert
from autockpt.report.timeline.value import Timeline
from autockpt_solvers import Compute

_COMMENT_COLUMN = 60
_MOST_ARGUMENTS = 6


def listing(timeline: Timeline) -> str:
    """Returns what a planned step runs, line by line: one call an operation, `del` for a free.

    Parameters, inputs and constants are not among the arguments, since they are there anyway. A
    line's comment names the module and the source line; what runs again is marked.
    """
    lines = ["def forward():"]
    num_runs = [0] * len(timeline.graph.ops)
    freed: list[str] = []
    in_backward = False
    for at, step in enumerate(timeline.schedule.steps):
        if not isinstance(step, Compute):
            if timeline.graph.size(step.storage):
                freed.append(_name(timeline, step.storage))
            continue
        if freed:
            lines.append(f"    del {', '.join(freed)}")
            freed = []
        if at > timeline.forward_end and not in_backward:
            lines += _header(timeline)
            in_backward = True
        num_runs[step.op] += 1
        lines.append(_call(timeline, step.op, num_runs[step.op]))
    if freed:
        lines.append(f"    del {', '.join(freed)}")
    return "\n".join(lines) + "\n"


def _header(timeline: Timeline) -> list[str]:
    size_bytes = sum(map(timeline.graph.size, timeline.saved))
    num = sum(timeline.graph.size(storage) > 0 for storage in timeline.saved)
    return [f"    # {num} tensors of {format_bytes(size_bytes)} are kept", "", "def backward():"]


def _call(timeline: Timeline, index: int, run: int) -> str:
    op = timeline.graph.ops[index]
    names = [_name(timeline, storage) for storage in op.reads if timeline.graph.size(storage)]
    if len(names) > _MOST_ARGUMENTS:
        names = [*names[:_MOST_ARGUMENTS], f"... {len(names) - _MOST_ARGUMENTS} more"]
    head, _, number = op.name.rpartition("_")
    function = head if head and number.isdecimal() else op.name
    call = f"{_identifier(function)}({', '.join(names)})"
    made = any(timeline.graph.size(storage) for storage in op.writes)
    code = f"    {_identifier(op.name)} = {call}" if made else f"    {call}"
    line = timeline.places.line_of(index)
    notes = [inert(op.segment), "" if line is None else inert(str(line))]
    notes += ["" if run < 2 else "again"]
    comment = ", ".join(filter(None, notes))
    return f"{code:{_COMMENT_COLUMN}}# {comment}" if comment else code


def _name(timeline: Timeline, storage: int) -> str:
    return _identifier(timeline.name_of(storage))


def _identifier(name: str) -> str:
    return inert(name).replace(" ", "_")
