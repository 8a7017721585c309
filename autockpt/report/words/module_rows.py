"""Merges rows of repeated layers: `transformer.h.[3-9].mlp` instead of seven equal rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autockpt.report.parts import ModuleRow

# A name in parts; an index is a tuple, of several indices after merging.
_Parts = tuple[str | tuple[int, ...], ...]


class _OfModule(Protocol):
    @property
    def module(self) -> str: ...


_Row = TypeVar("_Row", bound=_OfModule)
# Such a name, what is alike about the rows that it names, and these.
_Members = tuple[_Parts, object, tuple[_Row, ...]]


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
    # How the plan treats them.
    alike = [(row, (row.saved_bytes, row.recomputed_bytes, row.num_recomputed_ops)) for row in rows]
    return [_line(name, members) for name, members in fold(alike)]


def fold(rows: Iterable[tuple[_Row, object]]) -> list[tuple[str, tuple[_Row, ...]]]:
    """Merges rows of modules that are alike and whose names differ in one index only.

    Args:
        rows: Rows that have a `module`, each with a value that is equal for rows that are alike.

    Returns:
        The name of each line, with indices as `[0-3,7]`, and its rows.
    """
    lines: list[_Members[_Row]] = [(_parts(row.module), alike, (row,)) for row, alike in rows]
    depth = max((len(parts) for parts, _, _ in lines), default=0)
    for position in range(depth):
        lines = _merge(lines, position)
    return [(_name(parts), members) for parts, _, members in lines]


def _parts(module: str) -> _Parts:
    return tuple((int(part),) if part.isdecimal() else part for part in module.split("."))


def _merge(lines: list[_Members[_Row]], position: int) -> list[_Members[_Row]]:
    groups: dict[object, list[_Members[_Row]]] = {}
    for parts, alike, members in lines:
        if position < len(parts) and isinstance(parts[position], tuple):
            rest: object = (parts[:position], parts[position + 1 :])
        else:
            rest = parts
        groups.setdefault((rest, alike), []).append((parts, alike, members))
    return [_join(group, position) for group in groups.values()]


def _join(group: list[_Members[_Row]], position: int) -> _Members[_Row]:
    parts, alike, _ = group[0]
    members = tuple(row for _, _, rows in group for row in rows)
    if len(group) == 1:
        return parts, alike, members
    indices = sorted(i for other, _, _ in group for i in other[position] if isinstance(i, int))
    return (*parts[:position], tuple(indices), *parts[position + 1 :]), alike, members


def _name(parts: _Parts) -> str:
    return ".".join(part if isinstance(part, str) else _ranges(part) for part in parts)


def _line(name: str, members: tuple[ModuleRow, ...]) -> Line:
    return Line(
        module=name,
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
