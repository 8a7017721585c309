"""Renders a curve as text: a row for each budget, with a bar for its overhead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autockpt.budget import format_bytes
from autockpt.report.terminal.plain import plain_text
from autockpt.report.terminal.tables import WIDTH
from autockpt.report.words.sentences import times_words

if TYPE_CHECKING:
    from autockpt.report.curve.points import CurvePoint
    from autockpt.report.curve.value import Curve

_BAR_WIDTH = 40
_NUMBERS_WIDTH = 48
_WHY_NONE = {
    "infeasible": "no plan fits (proven)",
    "not_found": "no plan found",
    "out_of_time": "no plan found in time",
}


def plain(curve: Curve) -> str:
    """Returns the curve as plain text."""
    return plain_text(render(curve), width=WIDTH)


def render(curve: Curve, *, width: int = WIDTH) -> Group:
    """Returns the curve for a rich console of a width, from 60 letters on."""
    num = len(curve.points)
    title = Text.assemble(
        ("autockpt curve", "bold"), f"  {num} budget{'s' * (num > 1)}, {curve.device}"
    )
    parts: list[RenderableType] = [
        title,
        Text(""),
        _plot(curve, min(_BAR_WIDTH, width - _NUMBERS_WIDTH)),
        Text(""),
        _ends(curve),
    ]
    if curve.simple:
        parts += [Text(""), _simple(curve)]
    parts += [Text(""), *_notes(curve)]
    return Group(*parts)


def _plot(curve: Curve, bar_width: int) -> Padding:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("budget", "peak", "overhead", "bound"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    most = max((point.overhead or 0.0 for point in curve.points), default=0.0)
    knee = curve.knee
    for point in curve.points:
        if point.overhead is None or point.lower_bound is None:
            why = Text(_WHY_NONE[point.status.value], "dim")
            table.add_row(format_bytes(point.budget_bytes), "-", "-", "-", why)
            continue
        assert point.predicted_peak_bytes is not None
        table.add_row(
            format_bytes(point.budget_bytes),
            format_bytes(point.predicted_peak_bytes),
            f"+{point.overhead:.1%}",
            f"+{point.lower_bound:.1%}",
            _bar(point, most, bar_width, is_knee=point == knee),
        )
    return Padding(table, (0, 0, 0, 2))


def _bar(point: CurvePoint, most: float, width: int, *, is_knee: bool) -> Text:
    """A bar as long as the overhead; the part that the bound proves is drawn with #."""
    assert point.overhead is not None
    assert point.lower_bound is not None
    length = round(width * point.overhead / most) if most else 0
    proven = min(length, round(width * point.lower_bound / most)) if most else 0
    mark = " <- knee" if is_knee else ""
    return Text.assemble(
        "|", ("#" * proven, "cyan"), ("=" * (length - proven), "green"), (mark, "bold")
    )


def _ends(curve: Curve) -> Padding:
    grid = _grid("left", "right", "left")
    is_proven = curve.minimum_bound_bytes >= curve.minimum_peak_bytes
    bound = format_bytes(curve.minimum_bound_bytes)
    standing = "proven" if is_proven else f"least found; at least {bound}"
    grid.add_row("minimum", format_bytes(curve.minimum_peak_bytes), standing)
    knee = curve.knee
    if knee is not None and knee.overhead is not None:
        note = f"+{knee.overhead:.1%}; below it, saving memory costs ever more time"
        grid.add_row("knee", format_bytes(knee.budget_bytes), note)
    grid.add_row("eager", format_bytes(curve.baseline_peak_bytes), "recomputes nothing")
    return Padding(grid, (0, 0, 0, 2))


def _simple(curve: Curve) -> Group:
    """What simple methods cost at the peaks that they reach, beside this curve's cost there."""
    grid = _grid("left", "right", "right", "left")
    for name in dict.fromkeys(point.method for point in curve.simple):
        plans = [point for point in curve.simple if point.method == name]
        leanest = min(plans, key=lambda point: (point.predicted_peak_bytes, point.recompute_ns))
        grid.add_row(
            name,
            format_bytes(leanest.predicted_peak_bytes),
            f"+{leanest.overhead:.1%}",
            _here(curve, leanest.predicted_peak_bytes),
        )
    title = Text("Simple methods at the lowest peak they reach", "bold")
    return Group(title, Padding(grid, (0, 0, 0, 2)))


def _here(curve: Curve, budget_bytes: int) -> str:
    """The overhead of the largest budget of the curve that is not above another."""
    fitting = [
        point
        for point in curve.points
        if point.overhead is not None and point.budget_bytes <= budget_bytes
    ]
    if not fitting:
        return ""
    at = fitting[-1]
    return f"(the curve: +{at.overhead:.1%} at {format_bytes(at.budget_bytes)})"


def _notes(curve: Curve) -> list[RenderableType]:
    notes = (
        "# is the part of the overhead that no plan of the class can avoid (proven).",
        f"{times_words(curve.cost_source, curve.device)} The search took "
        f"{curve.solve_time_s:.1f} s.",
        *curve.notes,
    )
    grid = _grid("left", "left")
    for note in notes:
        grid.add_row("-", Text(note))
    return [Padding(grid, (0, 0, 0, 2))]


def _grid(*justify: str) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for side in justify:
        grid.add_column(justify=side, overflow="fold")  # type: ignore[arg-type]
    return grid
