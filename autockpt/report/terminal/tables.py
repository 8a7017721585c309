"""Renders a plan as text and tables, as wide as the terminal.

`str(plan)` is plain ASCII, so that it looks the same in a log, a notebook and a terminal. The
command line adds color, and blocks where the terminal has them.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autockpt.budget import format_bytes
from autockpt.report.kinds import MemoryKind
from autockpt.report.terminal.at_peak import Standing, peak_place, standing_at_peak
from autockpt.report.terminal.chart import Chart
from autockpt.report.terminal.names import shortened, without_folders
from autockpt.report.terminal.plain import plain_text
from autockpt.report.timeline.value import StepTimelines, Timeline
from autockpt.report.values import PlanValues
from autockpt.report.words.headline import headline, tries, verdict
from autockpt.report.words.inert import inert
from autockpt.report.words.module_rows import Line, compress
from autockpt.report.words.sentences import cost_warning, format_time, minimum_words, times_words

WIDTH = 100
NARROWEST = 60
_BAR_WIDTHS = (14, 28)  # narrow and wide
_NARROW = 76
_MAX_LINES = 40
_MAX_AT_PEAK = 8
# Lines of the ledger that are shown even if there is nothing of the kind.
_ALWAYS = (MemoryKind.PARAMETERS, MemoryKind.BUFFERS, MemoryKind.OPTIMIZER_STATE, MemoryKind.INPUTS)
_RUNGS = {
    "whole": "the forward runs as captured graphs",
    "blocks": "blocks run as captured graphs, what is around them as it is",
    "checkpoint": "nothing is captured; calls of modules are checkpointed",
    "eager": "the model runs as it is",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a report can show beside the plan's own values.

    Attributes:
        timelines: The memory of the step over time, if it was captured.
        nearby: Other budgets with their recomputation, in bytes and ns.
        command: Target and options of the command line, for lines to paste; None in Python.
    """

    timelines: StepTimelines | None = None
    nearby: tuple[tuple[int, int], ...] = ()
    command: str | None = None


def text(plan: PlanValues, around: Surroundings | None = None, *, width: int = WIDTH) -> str:
    """Returns the report as plain ASCII text."""
    return plain_text(render(plan, around, width=width), width=width, encoding="ascii")


def render(plan: PlanValues, around: Surroundings | None = None, *, width: int = WIDTH) -> Group:
    """Returns the report for a rich console of a width, from 60 letters on."""
    around = around or Surroundings()
    parts: list[RenderableType] = [_answer(plan), _peaks(plan, width)]
    if around.timelines is not None and around.timelines.plan.moments:
        parts.append(_over_time(plan, around.timelines, width))
    parts += [_cost(plan), _memory(plan)]
    if around.timelines is not None:
        parts += _at_peak(around.timelines.plan, width)
    if plan.num_recomputed_ops:
        parts.append(_modules(plan, width))
    if around.nearby and plan.baseline_step_ns:
        parts.append(_budgets(plan, around.nearby))
    parts += [_assumptions(plan), _tries(plan, around)]
    spaced: list[RenderableType] = [item for part in parts for item in (part, Text(""))]
    return Group(*spaced[:-1])


def _answer(plan: PlanValues) -> Group:
    fits = plan.fits
    words, rest = headline(plan).split(" ", 1) if fits else ("does not fit", headline(plan)[13:])
    judged = verdict(plan)
    graphs = "1 graph" if plan.num_graphs == 1 else f"{plan.num_graphs} graphs"
    style = "bold green" if fits else "bold red"
    lines = [
        Text.assemble((words, style), f" {rest}"),
        Text.assemble((f"{judged.word}: ", "bold"), f"{judged.reason} {judged.advice}".rstrip()),
        Text(f"autockpt plan for {inert(plan.device)}, {graphs}", "dim"),
    ]
    return Group(*lines)


def _peaks(plan: PlanValues, width: int) -> Padding:
    bar_width = _BAR_WIDTHS[width >= _NARROW]
    most = max(plan.baseline_peak_bytes, plan.predicted_peak_bytes, 1)
    rows = [
        ("eager", plan.baseline_peak_bytes, "red", ""),
        ("this plan", plan.predicted_peak_bytes, "green", _share(plan)),
    ]
    if plan.measured_peak_bytes is not None:
        difference = plan.measured_peak_bytes - plan.predicted_peak_bytes
        sign = "+" if difference >= 0 else ""
        note = f"{sign}{format_bytes(difference)} against the prediction"
        rows.append(("measured", plan.measured_peak_bytes, "green", note))
    words, standing = minimum_words(plan)
    if plan.minimum_bound_bytes:
        rows.append((words, plan.minimum_peak_bytes, "cyan", standing))
    grid = _grid("left", "left", "right", "left")
    for name, size_bytes, style, note in rows:
        filled = min(bar_width, round(bar_width * size_bytes / most))
        bar = Text.assemble("|", ("=" * filled, style), ("." * (bar_width - filled), "dim"), "|")
        bar.no_wrap = True
        grid.add_row(name, bar, format_bytes(size_bytes), note)
    if not plan.minimum_bound_bytes:
        grid.add_row(words, "", "", standing)
    return _section("Peak memory of a training step", grid)


def _share(plan: PlanValues) -> str:
    if not plan.baseline_peak_bytes:
        return ""
    return f"{plan.predicted_peak_bytes / plan.baseline_peak_bytes:.0%} of eager"


def _cost(plan: PlanValues) -> Padding:
    grid = _grid("left", "left")
    if plan.recompute_ns == 0:
        grid.add_row("recomputed", "nothing")
    else:
        grid.add_row(
            "recomputed",
            f"+{plan.overhead:.1%} of the step's operation time "
            f"({format_time(plan.recompute_ns)} on {format_time(plan.baseline_step_ns)})",
        )
        holds_for = " (of checkpointing these calls)" if plan.rung == "checkpoint" else ""
        grid.add_row("lower bound", f"+{plan.lower_bound:.1%}{holds_for}{_standing(plan)}")
    grid.add_row("solved by", Text(f"{inert(plan.method)} in {plan.solve_time_s:.1f} s"))
    grid.add_row("rung", f"{plan.rung}: {_RUNGS[plan.rung]}")
    return _section("Cost", grid)


def _standing(plan: PlanValues) -> str:
    if plan.status == "optimal":
        return ": this plan is optimal in its class"
    if plan.lower_bound_ns == 0:
        return ": none is proven"
    return f": at most {plan.gap:.1%} of the recomputation could still be saved"


def _over_time(plan: PlanValues, timelines: StepTimelines, width: int) -> Padding:
    minimum_bytes = plan.minimum_peak_bytes if plan.minimum_bound_bytes else 0
    chart = Chart(
        timelines=timelines,
        budget_bytes=plan.budget_bytes,
        minimum_bytes=minimum_bytes,
        eager_bytes=plan.baseline_peak_bytes,
        width=width - 2,
    )
    return _section("Memory over the step", chart)


def _at_peak(timeline: Timeline, width: int) -> list[RenderableType]:
    found = standing_at_peak(timeline)
    if not found:
        return []
    has_lines = any(each.line for each in found) and width >= _NARROW
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("module", no_wrap=True)
    if has_lines:
        table.add_column("line", no_wrap=True)
    shown, rest = found[:_MAX_AT_PEAK], found[_MAX_AT_PEAK:]
    room = width - 2 - 10 - 2 * (2 + has_lines)
    what_width = min(max(len(_what(each)) for each in shown), 24, max(16, room // 4))
    longest = max(len(each.line) for each in shown)
    lines_width = min(longest, 30, max(16, room * 3 // 8)) if has_lines else 0
    module_width = room - what_width - lines_width
    for each in shown:
        cells = [
            Text(format_bytes(each.size_bytes)),
            Text(_cropped(_what(each), what_width)),
            Text(shortened(each.module or "(no module)", module_width)),
        ]
        if has_lines:
            cells.append(Text(without_folders(each.line, lines_width), "dim"))
        table.add_row(*cells)
    if rest:
        count = sum(each.count for each in rest)
        total = format_bytes(sum(each.size_bytes for each in rest))
        table.add_row(Text(total), Text(f"{count} more"), "", *([""] * has_lines))
    place = Text(f"at {peak_place(timeline)}", "dim")
    return [_section("What the step has in memory at the peak", Group(place, table))]


def _what(each: Standing) -> str:
    return f"{each.count} x {each.name}" if each.count > 1 else each.name


def _cropped(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 2]}.."


def _budgets(plan: PlanValues, nearby: tuple[tuple[int, int], ...]) -> Padding:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("budget", "of eager", "more time"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    points = {**dict(nearby), plan.budget_bytes: plan.recompute_ns}
    for budget_bytes, recompute_ns in sorted(points.items(), reverse=True):
        is_this = budget_bytes == plan.budget_bytes
        table.add_row(
            format_bytes(budget_bytes),
            f"{budget_bytes / max(1, plan.baseline_peak_bytes):.0%}",
            f"+{recompute_ns / plan.baseline_step_ns:.1%}",
            "<- this plan" if is_this else "",
            style="bold" if is_this else "",
        )
    return _section("Other budgets", table)


def _tries(plan: PlanValues, around: Surroundings) -> Group:
    lines = [Text("Try", "bold")]
    for line, purpose in tries(plan, around.nearby, around.command):
        lines.append(Text(f"  # {purpose}", "dim"))
        # Not broken by us, so that it can be pasted.
        lines.append(Text(f"  {inert(line)}", no_wrap=True, overflow="ignore"))
    return Group(*lines)


def _memory(plan: PlanValues) -> Padding:
    assumed = " (assumed; pass optimizer= to name yours)" if plan.optimizer_assumed else ""
    notes: dict[str, str] = {
        MemoryKind.OPTIMIZER_STATE: f"{inert(plan.optimizer_name)}{assumed}",
        MemoryKind.BUCKETS: "of gradients, for data parallelism",
        MemoryKind.LIBRARIES: "what it keeps for the forward's thread and the backward's",
        MemoryKind.OTHER_CALLS: "what they hold before the same backward",
        MemoryKind.OTHER_MODELS: "that are optimized and train in the same step",
        MemoryKind.GRADIENTS: f"all together take {format_bytes(plan.gradients_bytes)}",
        MemoryKind.OUTPUTS: "that your code keeps",
        MemoryKind.SAVED: "kept for the backward",
        MemoryKind.RECOMPUTED: "made again in the backward",
        MemoryKind.FORWARD: "freed before the backward",
        MemoryKind.BACKWARD: "between operations of the backward",
        MemoryKind.OPTIMIZER_WORKSPACE: "what it allocates beside its state",
        MemoryKind.CALLS_BETWEEN: "of other models, or without gradients",
        MemoryKind.EAGER_ALONE: "it overwrites fewer values",
    }
    grid = _grid("left", "right", "left")
    for kind, size_bytes in plan.ledger.items():
        if size_bytes or kind in _ALWAYS:
            grid.add_row(Text(inert(kind)), format_bytes(size_bytes), Text(notes.get(kind, "")))
    measured = plan.measured_peak_bytes
    note = "" if measured is None else f"measured: {format_bytes(measured)}"
    grid.add_row(Text("predicted peak", "bold"), format_bytes(plan.predicted_peak_bytes), note)
    if plan.context_bytes:
        note = "the driver's, beside the budget (assumed)"
        grid.add_row("context", format_bytes(plan.context_bytes), note)
    return _section("Where the peak comes from", grid)


def _modules(plan: PlanValues, width: int) -> Padding:
    lines = [line for line in compress(plan.rows) if line.saved_bytes or line.recomputed_bytes]
    shown = _largest(lines, _MAX_LINES)
    has_number = width >= _NARROW
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("module", no_wrap=True)
    for name in ("number", "saved", "recomputed", "time")[not has_number :]:
        table.add_column(name, justify="right", no_wrap=True)
    name_width = width - 2 - (44 if has_number else 36)
    for line in shown:
        name = shortened(line.module or "(outside any module)", name_width)
        _add_line(table, name, line, has_number=has_number)
    if len(shown) < len(lines):
        rest = [line for line in lines if line not in shown]
        name = f"... {len(rest)} smaller entries"
        if width >= WIDTH:
            name += " (all are in plan.rows)"
        _add_line(table, name, _total(rest), has_number=has_number)
    _add_line(table, "total", _total(lines), style="bold", has_number=has_number)
    return _section("Saved for the backward, and recomputed in it", table)


def _largest(lines: list[Line], count: int) -> list[Line]:
    """Returns the lines that matter most, in the order of the model."""
    by_size = sorted(lines, key=lambda line: -(line.saved_bytes + line.recomputed_bytes))
    kept = {line.module for line in by_size[:count]}
    return [line for line in lines if line.module in kept]


def _total(lines: list[Line]) -> Line:
    return Line(
        module="",
        num_modules=sum(line.num_modules for line in lines),
        saved_bytes=sum(line.saved_bytes for line in lines),
        recomputed_bytes=sum(line.recomputed_bytes for line in lines),
        recompute_ns=sum(line.recompute_ns for line in lines),
    )


def _add_line(table: Table, name: str, line: Line, *, has_number: bool, style: str = "") -> None:
    cells = [
        str(line.num_modules),
        format_bytes(line.saved_bytes) if line.saved_bytes else "-",
        format_bytes(line.recomputed_bytes) if line.recomputed_bytes else "-",
        format_time(line.recompute_ns) if line.recompute_ns else "-",
    ]
    table.add_row(Text(name), *cells[not has_number :], style=style)


def _assumptions(plan: PlanValues) -> Padding:
    source = times_words(plan.cost_source, inert(plan.device))
    grid = _grid("left", "left")
    warning = cost_warning(plan)
    dear = (f"{warning[0].upper()}{warning[1:]}",) if warning else ()
    for note in (source, *dear, *plan.notes):
        grid.add_row("-", Text(inert(note)))
    return _section("Notes", grid)


def _section(title: str, body: RenderableType) -> Padding:
    return Padding(Group(Text(title, "bold"), Padding(body, (0, 0, 0, 2))), 0)


def _grid(*justify: str) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for side in justify:
        grid.add_column(justify=side, overflow="fold")  # type: ignore[arg-type]
    return grid
