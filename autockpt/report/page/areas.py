"""Stacked areas of a timeline as SVG paths, thinned out so that every peak stays.

A path has at most one point per column of the picture. Each column shows the moment in it with the
most memory, as a whole: what is stacked was in memory together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autockpt.report.page.groups import GROUPS, group_of
from autockpt.report.timeline.value import Timeline

WIDTH, HEIGHT = 1000, 1000  # of the coordinates; the picture itself is stretched
NUM_COLUMNS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """The area of a group of kinds.

    Attributes:
        key: The group's name in style sheets.
        path: Its outline, as the `d` of an SVG path.
    """

    key: str
    path: str


def columns(timeline: Timeline, most_ns: int, num_columns: int = NUM_COLUMNS) -> list[int]:
    """The moment that each column of the picture shows; -1 in columns behind the end.

    Args:
        timeline: The timeline.
        most_ns: The time at the right end of the picture.
        num_columns: How many columns it has.
    """

    def column_of(time_ns: int) -> int:
        return min(num_columns - 1, max(0, time_ns) * num_columns // max(1, most_ns))

    shown = [-1] * num_columns
    moments = timeline.moments
    for at, moment in enumerate(moments):
        first = column_of(moment.start_ns)
        # At its end the next moment begins.
        last = max(first, column_of(moment.start_ns + moment.duration_ns - 1))
        for column in range(first, last + 1):
            best = shown[column]
            if best < 0 or moment.total_bytes > moments[best].total_bytes:
                shown[column] = at
    return shown


def areas(
    timeline: Timeline, *, most_ns: int, most_bytes: int, num_columns: int = NUM_COLUMNS
) -> list[Area]:
    """The areas of a timeline, from the bottom to the top; empty ones are left out.

    Args:
        timeline: The timeline.
        most_ns: The time at the right end.
        most_bytes: The bytes at the upper end.
        num_columns: How many columns the picture has.
    """
    shown = [at for at in columns(timeline, most_ns, num_columns) if at >= 0]
    groups = [group_of(kind) for kind in timeline.kinds]
    floor = [0] * len(shown)
    found = []
    for number, group in enumerate(GROUPS):
        own = [at for at, of in enumerate(groups) if of == number]
        rows = [timeline.moments[at].kind_bytes for at in shown]
        top = [low + sum(row[at] for at in own) for low, row in zip(floor, rows, strict=True)]
        if top != floor:
            found.append(Area(key=group.key, path=_band(floor, top, most_bytes, num_columns)))
        floor = top
    return found


def outline(timeline: Timeline, *, most_ns: int, most_bytes: int, num_columns: int) -> str:
    """The upper edge of a timeline, as the `d` of an SVG path; see `areas`."""
    shown = [at for at in columns(timeline, most_ns, num_columns) if at >= 0]
    totals = [timeline.moments[at].total_bytes for at in shown]
    return "M" + _points(_steps(totals), most_bytes, num_columns)


def _band(low: Sequence[int], high: Sequence[int], most_bytes: int, num_columns: int) -> str:
    """A path around what is between two step functions of the columns."""
    upper = _points(_steps(high), most_bytes, num_columns)
    lower = _points(reversed(_steps(low)), most_bytes, num_columns)
    return f"M{upper}L{lower}Z"


def _steps(values: Sequence[int]) -> list[tuple[int, int]]:
    """The corners of a step function: columns, and values; what is level has no corners."""
    corners: list[tuple[int, int]] = []
    for column, value in enumerate(values):
        if not corners or corners[-1][1] != value:
            if corners:
                corners.append((column, corners[-1][1]))
            corners.append((column, value))
    if corners:
        corners.append((len(values), corners[-1][1]))
    return corners


def _points(corners: Iterable[tuple[int, int]], most_bytes: int, num_columns: int) -> str:
    return " ".join(
        f"{column * WIDTH // num_columns},{round(HEIGHT * (1 - value / max(1, most_bytes)))}"
        for column, value in corners
    )
