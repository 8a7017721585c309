"""Two plans side by side: what differs, in figures and module by module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from autockpt.budget import format_bytes
from autockpt.report.parts import ModuleRow
from autockpt.report.terminal.plain import plain_text
from autockpt.report.values import PlanValues
from autockpt.report.words.inert import inert
from autockpt.report.words.module_rows import fold

_WIDTH = 100
_NUM_MODULES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of two plans, and how it changes from the first to the second, in words."""

    name: str
    first: str
    second: str
    change: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleChange:
    """A module, or modules in equal layers, that two plans treat differently.

    Attributes:
        module: The name, with indices of equal layers as `[0-3,7]`.
        first: What the first plan does with each of them.
        second: What the second plan does.
        num_modules: How many modules it is.
    """

    module: str
    first: ModuleRow
    second: ModuleRow
    num_modules: int = 1

    @property
    def changed_bytes(self) -> int:
        """How many bytes more or less are saved and recomputed, in all of them."""
        saved, saved_then, again, again_then = self.kind_bytes
        return abs(saved - saved_then) + abs(again - again_then)

    @property
    def kind_bytes(self) -> tuple[int, int, int, int]:
        """Bytes that each plan saves in all of them, then bytes that each recomputes."""
        num = self.num_modules
        return (
            num * self.first.saved_bytes,
            num * self.second.saved_bytes,
            num * self.first.recomputed_bytes,
            num * self.second.recomputed_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What differs between two plans; `str` shows it.

    Attributes:
        names: What to call the plans.
        summary: The difference, in a sentence.
        figures: Peaks, costs and how they were found.
        modules: Modules that are treated differently, the largest change first.
    """

    names: tuple[str, str]
    summary: str
    figures: tuple[Figure, ...]
    modules: tuple[ModuleChange, ...]

    def to_json(self) -> str:
        """Returns the comparison as JSON text, with the rows of both plans for each module."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode() + "\n"

    def __str__(self) -> str:
        return plain_text(render(self), width=_WIDTH)


def compare(
    first: PlanValues, second: PlanValues, names: tuple[str, str] = ("A", "B")
) -> Comparison:
    """Compares two plans.

    Args:
        first: A plan.
        second: Another, for the same model or for another one.
        names: What to call them.
    """
    rows = [{row.module: row for row in plan.rows} for plan in (first, second)]
    changes = [
        ModuleChange(
            module=module,
            first=rows[0].get(module, _nothing(module)),
            second=rows[1].get(module, _nothing(module)),
        )
        for module in dict.fromkeys([*rows[0], *rows[1]])
    ]
    folded = [
        replace(members[0], module=inert(name), num_modules=len(members))
        for name, members in fold((c, c.kind_bytes) for c in changes if c.changed_bytes)
    ]
    changes = sorted(folded, key=lambda change: -change.changed_bytes)
    return Comparison(
        names=(inert(names[0]), inert(names[1])),
        summary=_summary(first, second, inert(names[1])),
        figures=_figures(first, second),
        modules=tuple(changes),
    )


def _nothing(module: str) -> ModuleRow:
    return ModuleRow(
        module=module, saved_bytes=0, recomputed_bytes=0, recompute_ns=0, num_recomputed_ops=0
    )


def _summary(first: PlanValues, second: PlanValues, name: str) -> str:
    peak_bytes = second.predicted_peak_bytes - first.predicted_peak_bytes
    memory = f"{format_bytes(abs(peak_bytes))} {'more' if peak_bytes > 0 else 'less'} memory"
    if not peak_bytes:
        memory = "the same memory"
    more = second.overhead - first.overhead
    time = f"{abs(more):.1%} of a step {'more' if more > 0 else 'less'} time"
    if f"{abs(more):.1%}" == "0.0%":
        time = "the same time"
    return f"{name} needs {memory} and {time}"


def _figures(first: PlanValues, second: PlanValues) -> tuple[Figure, ...]:
    def of_bytes(name: str, get: Callable[[PlanValues], int | None]) -> Figure:
        a, b = get(first), get(second)
        change = "" if a is None or b is None else _signed(b - a)
        return Figure(name=name, first=_size(a), second=_size(b), change=change)

    def of_shares(name: str, get: Callable[[PlanValues], float]) -> Figure:
        a, b = get(first), get(second)
        return Figure(name=name, first=f"{a:+.1%}", second=f"{b:+.1%}", change=f"{b - a:+.1%}")

    def of_words(name: str, get: Callable[[PlanValues], str]) -> Figure:
        a, b = get(first), get(second)
        return Figure(
            name=name, first=inert(a), second=inert(b), change="" if a == b else "differs"
        )

    return (
        of_bytes("budget", lambda plan: plan.budget_bytes),
        of_bytes("predicted peak", lambda plan: plan.predicted_peak_bytes),
        of_bytes("measured peak", lambda plan: plan.measured_peak_bytes),
        of_bytes("eager peak", lambda plan: plan.baseline_peak_bytes),
        of_bytes("smallest budget", lambda plan: plan.minimum_peak_bytes),
        of_bytes("saved", lambda plan: sum(row.saved_bytes for row in plan.rows)),
        of_bytes("recomputed", lambda plan: sum(row.recomputed_bytes for row in plan.rows)),
        of_shares("extra time", lambda plan: plan.overhead),
        of_shares("lower bound", lambda plan: plan.lower_bound),
        of_words("operations that run again", lambda plan: str(plan.num_recomputed_ops)),
        of_words("device", lambda plan: plan.device),
        of_words("method", lambda plan: plan.method),
        of_words("rung", lambda plan: plan.rung),
    )


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else format_bytes(size_bytes)


def _signed(size_bytes: int) -> str:
    return "same" if not size_bytes else ("+" * (size_bytes > 0)) + format_bytes(size_bytes)


def render(comparison: Comparison) -> Group:
    """Returns a comparison for a rich console."""
    first, second = comparison.names
    figures = _table("", first, second, f"{second} - {first}")
    for figure in comparison.figures:
        figures.add_row(Text(figure.name), *map(Text, (figure.first, figure.second, figure.change)))
    title = Text.assemble(("autockpt diff", "bold"), f"  {comparison.summary}")
    if not comparison.modules:
        return Group(title, Text(""), figures, Text(""), Text("All modules are treated alike."))
    headers = (f"saved {first}", second, f"recomputed {first}", second)
    modules = _table("module", *headers)
    for change in comparison.modules[:_NUM_MODULES]:
        cells = [Text(format_bytes(size) if size else "-") for size in change.kind_bytes]
        modules.add_row(Text(change.module or "(outside any module)"), *cells)
    heading = Text("Modules that are treated differently", "bold")
    rest = len(comparison.modules) - _NUM_MODULES
    more = [Text(f"... {rest} more with smaller changes")] if rest > 0 else []
    return Group(title, Text(""), figures, Text(""), heading, modules, *more)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(Text(name), justify="right", overflow="fold")
    return table
