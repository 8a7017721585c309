"""Renders a plan as text and tables.

The text is plain ASCII, so that it looks the same in a log, a notebook and a terminal. The command
line adds color.
"""

from __future__ import annotations

import io

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autockpt.budget import format_bytes
from autockpt.report.module_rows import Line, compress
from autockpt.report.values import PlanValues
from autockpt.report.words import cost_warning, minimum_words, times_words

WIDTH = 100
_BAR_WIDTH = 28
_MAX_LINES = 40
# Lines of the ledger that are shown even if there is nothing of the kind.
_ALWAYS = ("parameters", "buffers", "optimizer state", "inputs")
_RUNGS = {
    "whole": "the forward runs as captured graphs",
    "blocks": "blocks run as captured graphs, what is around them as it is",
    "checkpoint": "nothing is captured; calls of modules are checkpointed",
    "eager": "the model runs as it is",
}


def text(plan: PlanValues) -> str:
    """Returns the report as plain text."""
    buffer = io.StringIO()
    console = Console(
        file=buffer, width=WIDTH, color_system=None, legacy_windows=False, force_jupyter=False
    )
    console.print(render(plan))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def render(plan: PlanValues) -> Group:
    """Returns the report for a rich console."""
    parts: list[RenderableType] = [_title(plan), _peaks(plan), _cost(plan), _memory(plan)]
    if plan.num_recomputed_ops:
        parts.append(_modules(plan))
    parts.append(_assumptions(plan))
    spaced: list[RenderableType] = [item for part in parts for item in (part, Text(""))]
    return Group(*spaced[:-1])


def _title(plan: PlanValues) -> Text:
    graphs = "1 graph" if plan.num_graphs == 1 else f"{plan.num_graphs} graphs"
    budget = format_bytes(plan.budget_bytes)
    return Text.assemble(("autockpt plan", "bold"), f"  budget {budget}, {plan.device}, {graphs}")


def _peaks(plan: PlanValues) -> Padding:
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
        filled = min(_BAR_WIDTH, round(_BAR_WIDTH * size_bytes / most))
        bar = Text.assemble("|", ("=" * filled, style), ("." * (_BAR_WIDTH - filled), "dim"), "|")
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
            f"({_time(plan.recompute_ns)} on {_time(plan.baseline_step_ns)})",
        )
        holds_for = " (of checkpointing these calls)" if plan.rung == "checkpoint" else ""
        grid.add_row("lower bound", f"+{plan.lower_bound:.1%}{holds_for}{_standing(plan)}")
    grid.add_row("solved by", f"{plan.method} in {plan.solve_time_s:.1f} s")
    grid.add_row("rung", f"{plan.rung}: {_RUNGS[plan.rung]}")
    return _section("Cost", grid)


def _standing(plan: PlanValues) -> str:
    if plan.status == "optimal":
        return ": this plan is optimal in its class"
    if plan.lower_bound_ns == 0:
        return ": none is proven"
    return f": at most {plan.gap:.1%} of the recomputation could still be saved"


def _memory(plan: PlanValues) -> Padding:
    assumed = " (assumed; pass optimizer= to name yours)" if plan.optimizer_assumed else ""
    notes = {
        "optimizer state": f"{plan.optimizer_name}{assumed}",
        "buckets": "of gradients, for data parallelism",
        "workspace of cuBLAS": "what it keeps for the forward's thread and the backward's",
        "other calls": "what they hold before the same backward",
        "gradients": f"all together take {format_bytes(plan.gradients_bytes)}",
        "outputs": "that your code keeps",
        "saved activations": "kept for the backward",
        "recomputed activations": "made again in the backward",
        "forward values": "freed before the backward",
        "backward values": "between operations of the backward",
        "optimizer's step": "what it allocates beside its state",
        "in eager PyTorch alone": "it overwrites fewer values",
    }
    grid = _grid("left", "right", "left")
    for kind, size_bytes in plan.ledger.items():
        if size_bytes or kind in _ALWAYS:
            grid.add_row(kind, format_bytes(size_bytes), notes.get(kind, ""))
    measured = plan.measured_peak_bytes
    note = "" if measured is None else f"measured: {format_bytes(measured)}"
    grid.add_row(Text("predicted peak", "bold"), format_bytes(plan.predicted_peak_bytes), note)
    if plan.context_bytes:
        note = "the driver's, beside the budget (assumed)"
        grid.add_row("context", format_bytes(plan.context_bytes), note)
    return _section("Where the peak comes from", grid)


def _modules(plan: PlanValues) -> Padding:
    lines = [line for line in compress(plan.rows) if line.saved_bytes or line.recomputed_bytes]
    shown = _largest(lines, _MAX_LINES)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("module", overflow="fold")
    for name in ("number", "saved", "recomputed", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in shown:
        _add_line(table, line.module or "(outside any module)", line)
    if len(shown) < len(lines):
        rest = [line for line in lines if line not in shown]
        _add_line(table, f"... {len(rest)} smaller entries (all are in plan.rows)", _total(rest))
    _add_line(table, "total", _total(lines), style="bold")
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


def _add_line(table: Table, name: str, line: Line, *, style: str = "") -> None:
    table.add_row(
        Text(name),
        str(line.num_modules),
        format_bytes(line.saved_bytes) if line.saved_bytes else "-",
        format_bytes(line.recomputed_bytes) if line.recomputed_bytes else "-",
        _time(line.recompute_ns) if line.recompute_ns else "-",
        style=style,
    )


def _assumptions(plan: PlanValues) -> Padding:
    source = times_words(plan.cost_source, plan.device)
    grid = _grid("left", "left")
    warning = cost_warning(plan)
    dear = (f"{warning[0].upper()}{warning[1:]}",) if warning else ()
    for note in (source, *dear, *plan.notes):
        grid.add_row("-", Text(note))
    return _section("Notes", grid)


def _section(title: str, body: Table) -> Padding:
    return Padding(Group(Text(title, "bold"), Padding(body, (0, 0, 0, 2))), 0)


def _grid(*justify: str) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for side in justify:
        grid.add_column(justify=side, overflow="fold")  # type: ignore[arg-type]
    return grid


def _time(time_ns: int) -> str:
    for unit, size_ns in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if time_ns >= size_ns:
            return f"{time_ns / size_ns:.2f} {unit}"
    return f"{time_ns} ns"
