"""Merges rows of repeated layers: `transformer.h.[3-9].mlp` instead of seven equal rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autockpt.report.parts import ModuleRow

# A name in parts; an index is a tuple, of several indices after merging.
_Parts = tuple[str | tuple[int, ...], ...]
# Such a name, and the rows that it names.
_Members = tuple[_Parts, tuple["ModuleRow", ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Modules that a plan treats in the same way, with their sums.

    Attributes:
        module: The name of all of them, with indices as `[0-3,7]`.
        num_modules: The number of modules.
        saved_bytes: Bytes saved for all of them.
        recomputed_bytes: Bytes recomputed for all of them.
        recompute_ns: Time of that recomputation.
    """

    module: str
    num_modules: int
    saved_bytes: int
    recomputed_bytes: int
    recompute_ns: int


def compress(rows: Iterable[ModuleRow]) -> list[Line]:
    """Merges rows that differ only in one index of their name and in time.

    The outermost index is tried first, so that layers are merged before what repeats inside them.
    Lines are in the order of their first row.
    """
    lines: list[_Members] = [(_parts(row.module), (row,)) for row in rows]
    depth = max((len(parts) for parts, _ in lines), default=0)
    for position in range(depth):
        lines = _merge(lines, position)
    return [_line(parts, members) for parts, members in lines]


def _parts(module: str) -> _Parts:
    return tuple((int(part),) if part.isdecimal() else part for part in module.split("."))


def _merge(lines: list[_Members], position: int) -> list[_Members]:
    groups: dict[object, list[_Members]] = {}
    for parts, members in lines:
        if position < len(parts) and isinstance(parts[position], tuple):
            rest: object = (parts[:position], parts[position + 1 :])
        else:
            rest = parts
        # How the plan treats them; all members of a line are alike already.
        first = members[0]
        alike = (first.saved_bytes, first.recomputed_bytes, first.num_recomputed_ops)
        groups.setdefault((rest, alike), []).append((parts, members))
    return [_join(group, position) for group in groups.values()]


def _join(group: list[_Members], position: int) -> _Members:
    parts = group[0][0]
    members = tuple(row for _, rows in group for row in rows)
    if len(group) == 1:
        return parts, members
    indices = sorted(i for other, _ in group for i in other[position] if isinstance(i, int))
    return (*parts[:position], tuple(indices), *parts[position + 1 :]), members


def _line(parts: _Parts, members: tuple[ModuleRow, ...]) -> Line:
    return Line(
        module=".".join(part if isinstance(part, str) else _ranges(part) for part in parts),
        num_modules=len(members),
        saved_bytes=sum(row.saved_bytes for row in members),
        recomputed_bytes=sum(row.recomputed_bytes for row in members),
        recompute_ns=sum(row.recompute_ns for row in members),
    )


def _ranges(indices: tuple[int, ...]) -> str:
    if len(indices) == 1:
        return str(indices[0])
    spans: list[list[int]] = []
    for index in indices:
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return f"[{','.join(str(a) if a == b else f'{a}-{b}' for a, b in spans)}]"
