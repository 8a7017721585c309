"""The source lines of the engine's ops."""

from __future__ import annotations

from autockpt.capture.captured import Capture
from autockpt.capture.source_lines import source_line
from autockpt.lower.origins import Origin
from autockpt.report.timeline.places import Places, SourceLine


def places_of(capture: Capture, origins: tuple[Origin, ...]) -> Places:
    """Where the ops of a lowered step come from.

    Args:
        capture: The captured step.
        origins: The nodes that the ops come from.
    """
    lines: dict[tuple[str, int, str], int] = {}
    of_ops = []
    for origin in origins:
        line = None
        if origin.joint_op >= 0:
            node = capture.graphs[origin.region].joint.ops[origin.joint_op].node
            line = source_line(node)
        of_ops.append(-1 if line is None else lines.setdefault(line, len(lines)))
    outside = tuple(
        op
        for op, origin in enumerate(origins)
        if origin.kind in ("node", "tangents")
        and capture.graphs[origin.region].has_outside(origin.joint_op)
    )
    known = tuple(SourceLine(file=file, line=line, code=code) for file, line, code in lines)
    return Places(lines=known, of_ops=tuple(of_ops), outside=outside)
