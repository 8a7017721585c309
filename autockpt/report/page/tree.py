"""The modules of a plan as a tree, with sums over what is inside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from autockpt.report.page.formats import inert
from autockpt.report.parts import ModuleRow


@dataclass(slots=True, kw_only=True, eq=False)
class Branch:
    """A module, with sums over it and all modules inside.

    Attributes:
        name: The last part of its name.
        path: The whole name.
        saved_bytes: Bytes of values that are saved for the backward.
        recomputed_bytes: Bytes of values that are recomputed.
        recompute_ns: Time of that recomputation.
        inside: The modules inside, in the order of the forward.
    """

    name: str
    path: str
    saved_bytes: int = 0
    recomputed_bytes: int = 0
    recompute_ns: int = 0
    inside: list[Branch] = field(default_factory=list)


def tree_of(rows: Iterable[ModuleRow]) -> Branch:
    """Makes a tree of the rows of a plan."""
    root = Branch(name="the model", path="")
    known: dict[str, Branch] = {"": root}
    for row in rows:
        branch = _branch(inert(row.module), known)
        for each in (branch, *_around(branch, known)):
            each.saved_bytes += row.saved_bytes
            each.recomputed_bytes += row.recomputed_bytes
            each.recompute_ns += row.recompute_ns
    return _with_own_parts(root, {inert(row.module): row for row in rows})


def _branch(path: str, known: dict[str, Branch]) -> Branch:
    if path not in known:
        outer, _, name = path.rpartition(".")
        known[path] = Branch(name=name, path=path)
        _branch(outer, known).inside.append(known[path])
    return known[path]


def _around(branch: Branch, known: dict[str, Branch]) -> list[Branch]:
    """The modules that a module is inside of, innermost first."""
    around = []
    while branch.path:
        branch = known[branch.path.rpartition(".")[0]]
        around.append(branch)
    return around


def _with_own_parts(branch: Branch, rows: dict[str, ModuleRow]) -> Branch:
    """Gives modules with modules inside a line for what they do themselves."""
    for each in branch.inside:
        _with_own_parts(each, rows)
    row = rows.get(branch.path)
    if branch.inside and row is not None:
        branch.inside.insert(
            0,
            Branch(
                name="(its own operations)" if branch.path else "(outside any module)",
                path=branch.path,
                saved_bytes=row.saved_bytes,
                recomputed_bytes=row.recomputed_bytes,
                recompute_ns=row.recompute_ns,
            ),
        )
    return branch
