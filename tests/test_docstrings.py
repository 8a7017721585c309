"""Every name that a docstring documents exists: renames must not leave false documentation."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    file for package in ("autockpt", "solvers") for file in (ROOT / package).rglob("*.py")
)
ENTRY = re.compile(r"    (\*{0,2}\w+(?:, \*{0,2}\w+)*):(?: |$)")


def documented(docstring: str, section: str) -> list[str]:
    """The names in a section of a Google docstring."""
    names: list[str] = []
    is_inside = False
    for line in docstring.splitlines():
        if line and not line.startswith(" "):
            is_inside = line == f"{section}:"
        elif is_inside and (entry := ENTRY.match(line)):
            names += [name.strip("* ") for name in entry[1].split(",")]
    return names


def attributes_of(node: ast.ClassDef) -> set[str]:
    """What a class declares, or sets on `self`."""
    names = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    for item in ast.walk(node):
        match item:
            case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Store()):
                names.add(item.attr)
    for item in node.body:
        match item:
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def arguments_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    args = node.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    return {arg.arg for arg in every if arg is not None}


def classes_in(source: str) -> dict[str, ast.ClassDef]:
    return {
        node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)
    }


CLASSES = {
    name: node
    for file in FILES
    for name, node in classes_in(file.read_text(encoding="utf-8")).items()
}


def unknown_names(source: str) -> list[str]:
    """The names that docstrings document and the code does not have, with their lines."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            inherited = [attributes_of(CLASSES[base]) for base in bases if base in CLASSES]
            known = attributes_of(node).union(*inherited)
            names = documented(ast.get_docstring(node) or "", "Attributes")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            known = arguments_of(node)
            names = documented(ast.get_docstring(node) or "", "Args")
        else:
            continue
        found += [f"line {node.lineno}: {name}" for name in names if name not in known]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_docstrings_document_exists(file: Path) -> None:
    assert unknown_names(file.read_text(encoding="utf-8")) == []


def test_false_documentation_is_found() -> None:
    source = '''
class Found:
    """What was found.

    Attributes:
        facts: Renamed.
        first, second: Both here.
        made: Set later.
    """

    orders: list
    first: int
    second: int

    def __init__(self, orders):
        """Take orders.

        Args:
            found: Renamed; a line that goes
                on: and on.
            orders: The orders.
        """
        self.made = orders
'''
    assert unknown_names(source) == ["line 2: facts", "line 15: found"]
