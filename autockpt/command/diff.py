"""`autockpt diff`: two plans side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autockpt.command.grammar.options import Html, Json, Shown
from autockpt.command.grammar.usage_error import TargetError
from autockpt.command.running.files import STANDARD_OUTPUT, check_writable, read, write
from autockpt.command.running.streams import show
from autockpt.command.running.told import told

if TYPE_CHECKING:
    from autockpt.report.plan import Plan

EXAMPLES = (
    "autockpt diff before.json after.json",
    "autockpt diff 8GB.json 6GB.json --html both.html",
)
_File = Annotated[
    Path,
    typer.Argument(
        metavar="PLAN.json",
        help="A file that autockpt plan --json or Plan.save wrote.",
        show_default=False,
    ),
]


def diff(first: _File, second: _File, shown: Shown, json: Json = None, html: Html = None) -> None:
    """Show what differs between two plans: peaks, costs, and what happens to which module."""
    with told(shown):
        check_writable(json, html)
        texts = [read(file) for file in (first, second)]

        from autockpt.report.diff import diff_html
        from autockpt.report.terminal.comparison import compare, render

        a, b = _plan(first, texts[0]), _plan(second, texts[1])
        names = _names(first, second)
        comparison = compare(a, b, names)
        if html is not None:
            write(html, diff_html(a, b, names))
        if json is not None:
            write(json, comparison.to_json())
        if STANDARD_OUTPUT not in (json, html):
            show(render(comparison))


def _plan(file: Path, text: str) -> Plan:
    from autockpt.report.plan import Plan

    try:
        return Plan.from_json(text)
    except ValueError as error:
        raise TargetError(f"cannot load a plan from {file}: {error}") from error


def _names(first: Path, second: Path) -> tuple[str, str]:
    """The shortest names that tell the files apart."""
    return (first.stem, second.stem) if first.stem != second.stem else ("A", "B")
