"""Modules and operations of a graph by name, also folded as reports show them: `h.[0-3].attn`."""

from __future__ import annotations

import difflib

from autockpt_solvers import ComputeGraph

_MOST_NAMED = 6


def named_ops(graph: ComputeGraph, name: str) -> tuple[int, ...]:
    """Returns the operations of the forward that a name means.

    Args:
        graph: The graph.
        name: An operation; or a module, which means what is inside it too.

    Raises:
        ValueError: There is neither; names what is close.
    """
    exact = tuple(at for at, op in enumerate(graph.ops) if op.name == name)
    if exact:
        if all(graph.ops[at].is_backward for at in exact):
            raise ValueError(
                f"{name!r} is an operation of the backward, which no plan saves; name one of the "
                "forward, or a module"
            )
        return exact
    wanted = [_indices(part) for part in name.split(".")]
    inside = tuple(
        at
        for at, op in enumerate(graph.ops)
        if not op.is_backward and _is_inside(op.segment, wanted)
    )
    if inside:
        return inside
    known = {op.segment for op in graph.ops if op.segment} | {op.name for op in graph.ops}
    parents = {".".join(path.split(".")[:depth]) for path in known for depth in range(1, 8)}
    close = difflib.get_close_matches(name, sorted(known | parents), n=2)
    meant = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    if not close:
        tops = list(dict.fromkeys(op.segment.partition(".")[0] for op in graph.ops if op.segment))
        more = ", ..." if len(tops) > _MOST_NAMED else ""
        meant = f"; its modules are {', '.join(tops[:_MOST_NAMED])}{more}" if tops else ""
    raise ValueError(f"there is no module and no operation {name!r} in the plan{meant}")


def _is_inside(segment: str, wanted: list[frozenset[str]]) -> bool:
    parts = segment.split(".")
    return len(parts) >= len(wanted) and all(
        part in names for part, names in zip(parts, wanted, strict=False)
    )


def _indices(part: str) -> frozenset[str]:
    """The names that a part of a folded name means: `[0-2,5]` is 0, 1, 2 and 5."""
    if not (part.startswith("[") and part.endswith("]")):
        return frozenset((part,))
    found: set[str] = set()
    for span in part[1:-1].split(","):
        first, _, last = span.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            return frozenset((part,))
        found |= {str(index) for index in range(int(first), int(last or first) + 1)}
    return frozenset(found)
