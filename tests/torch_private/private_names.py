"""Find private names of torch in Python sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import torch

# Modules of torch that nobody promises to keep, though no name in their path says so.
_UNDOCUMENTED = ("torch.fx.experimental", "torch.fx.passes", "torch.utils._")


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _attributes_of_objects() -> frozenset[str]:
    """Private attributes that tensors, storages, modules, operators and graphs of torch have."""
    objects = (
        torch.empty(0).untyped_storage(),
        torch.nn.Parameter(torch.empty(0)),
        torch.nn.Linear(1, 1),
        torch.nn.parallel.DistributedDataParallel,
        torch.ops.aten.add.Tensor,
        torch.fx.Graph(),
        torch.Generator(),
    )
    return frozenset(name for value in objects for name in dir(value) if _is_private(name))


_OF_OBJECTS = _attributes_of_objects()


class _Scan(ast.NodeVisitor):
    """Collects dotted paths, and attributes of objects whose type the source does not tell."""

    def __init__(self) -> None:
        self.paths: list[tuple[int, str]] = []
        self.attributes: list[tuple[int, str]] = []
        self._aliases: dict[str, str] = {}

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.split(".")[0] == "torch":
                self.paths.append((node.lineno, alias.name))
                if alias.asname:
                    self._aliases[alias.asname] = alias.name
                else:
                    self._aliases["torch"] = "torch"

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module and node.module.split(".")[0] == "torch" and not node.level:
            for alias in node.names:
                path = f"{node.module}.{alias.name}"
                self.paths.append((node.lineno, path))
                self._aliases[alias.asname or alias.name] = path

    def visit_Assign(self, node: ast.Assign) -> None:
        path = self._path(node.value)
        target = node.targets[0]
        if path is not None and isinstance(target, ast.Name):
            self._aliases[target.id] = path
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path = self._path(node)
        if path is not None:
            self.paths.append((node.lineno, path))
            return
        is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if _is_private(node.attr) and not is_own:
            self.attributes.append((node.lineno, node.attr))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """`getattr(x, "_name")`, `mock.patch.object(x, "name")` and the like."""
        if len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            name = node.args[1].value
            owner = self._path(node.args[0])
            if isinstance(name, str) and name.isidentifier():
                if owner is not None:
                    self.paths.append((node.lineno, f"{owner}.{name}"))
                elif _is_private(name):
                    self.attributes.append((node.lineno, name))
        self.generic_visit(node)

    def _path(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return self._aliases.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._path(node.value)
            return None if owner is None else f"{owner}.{node.attr}"
        return None


def is_private_path(path: str) -> bool:
    """Whether a dotted path of torch has a private part, or leads into an undocumented module."""
    parts = path.split(".")
    return any(map(_is_private, parts)) or path.startswith(_UNDOCUMENTED)


def private_paths(source: str) -> Iterator[tuple[int, str]]:
    """Dotted paths of torch with a private part, with their lines."""
    scan = _Scan()
    scan.visit(ast.parse(source))
    yield from (found for found in scan.paths if is_private_path(found[1]))


def private_attributes(source: str, *, every: bool = False) -> Iterator[tuple[int, str]]:
    """Private attributes of objects other than `self`, with their lines.

    Only those that objects of torch are known to have, unless ``every`` is set.
    """
    scan = _Scan()
    scan.visit(ast.parse(source))
    yield from (found for found in scan.attributes if every or found[1] in _OF_OBJECTS)
