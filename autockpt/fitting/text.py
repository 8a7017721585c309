"""The answer of `fit` as one screen of text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autockpt.batch.predicted import MOST_SAMPLES
from autockpt.budget import format_bytes
from autockpt.fitting.value import Change, FitValues, Way, WayKind
from autockpt.report.terminal.plain import plain_text

_WIDTH = 100
_MOST_CHANGES = 8
# The columns of the table of ways, by the least width that has room for them.
_COLUMNS = {
    96: ("peak", " ", "step", "more time", "per second", "largest batch"),
    76: ("peak", " ", "more time", "largest batch"),
    0: ("peak", " ", "more time"),
}


def text(fit: FitValues) -> str:
    """Returns the report as plain text."""
    return plain_text(render(fit), width=_WIDTH)


def render(fit: FitValues, *, width: int = _WIDTH) -> Group:
    """Returns the report for a rich console of a width, from 60 letters on."""
    parts: list[RenderableType] = [_verdict(fit), _ways(fit, width), _parts(fit)]
    if fit.changes:
        parts.append(_changes(fit))
    parts.append(Padding(Group(*(Text(f"- {note}", "dim") for note in fit.notes)), (0, 0, 0, 2)))
    spaced: list[RenderableType] = [item for part in parts for item in (part, Text(""))]
    return Group(*spaced[:-1])


def _verdict(fit: FitValues) -> Text:
    samples = fit.samples.removesuffix("s") if fit.batch == 1 else fit.samples
    size = "" if fit.batch is None else f", {fit.batch} {samples}"
    tokens = "" if fit.tokens is None else f" of {fit.tokens} tokens"
    place = f"\n{fit.title}{size}{tokens}"
    budget = format_bytes(fit.budget_bytes)
    if fit.fits_as_it_is:
        peak = format_bytes(fit.ways[0].peak_bytes)
        return Text.assemble(("fits", "bold green"), f" as it is: peak {peak} of {budget}{place}")
    if fit.plan is not None:
        peak = format_bytes(fit.plan.predicted_peak_bytes)
        eager = format_bytes(fit.ways[0].peak_bytes)
        return Text.assemble(
            ("fits with a plan", "bold green"),
            f": peak {peak} of {budget} instead of {eager}, +{fit.plan.overhead:.1%} time",
            place,
        )
    least = format_bytes(fit.minimum_bytes)
    is_proven = fit.minimum_bound_bytes > fit.budget_bytes
    how = "no plan needs less than" if is_proven else "the least that was found is"
    bound = format_bytes(fit.minimum_bound_bytes) if is_proven else least
    return Text.assemble(("does not fit", "bold red"), f" {budget}: {how} {bound}{place}")


def _ways(fit: FitValues, width: int) -> Padding:
    headers = _COLUMNS[next(least for least in _COLUMNS if width >= least)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for name in headers:
        table.add_column(name.strip(), justify="right", no_wrap=True)
    for way in fit.ways:
        cells: dict[str, RenderableType] = {
            "peak": format_bytes(way.peak_bytes),
            " ": Text("fits", "green") if way.fits else Text("too large", "red"),
            "step": _time(way.step_ns),
            "more time": f"+{way.overhead:.1%}" if way.overhead else "-",
            "per second": _rate(fit, fit.batch, way.step_ns) if way.fits else "-",
            "largest batch": _largest(way),
        }
        table.add_row(way.name, *(cells[name] for name in headers))
    rows: list[RenderableType] = [table]
    if fit.best_batch is not None and fit.best_batch_step_ns is not None:
        rate = _rate(fit, fit.best_batch, fit.best_batch_step_ns)
        rows.append(
            Text(f"best predicted throughput: a batch of {fit.best_batch}, {rate} a second")
        )
    return Padding(Group(*rows), (0, 0, 0, 2))


def _largest(way: Way) -> str:
    if way.largest_batch is None:
        return "-"
    return f"{way.largest_batch}{' or more' if way.largest_batch >= MOST_SAMPLES else ''}"


def _rate(fit: FitValues, batch: int | None, step_ns: int) -> str:
    if batch is None:
        return "-"
    per_s = batch / (step_ns / 1e9)
    if fit.tokens is not None:
        return f"{per_s * fit.tokens:,.0f} tokens"
    return f"{per_s:,.1f} {fit.samples}"


def _parts(fit: FitValues) -> Padding:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column()
    grid.add_column(justify="right")
    for kind, size_bytes in fit.parts:
        grid.add_row(kind, format_bytes(size_bytes))
    grid.add_row("peak", format_bytes(sum(size_bytes for _, size_bytes in fit.parts)), style="bold")
    grid.add_row("beside it, the driver's context (assumed)", format_bytes(fit.context_bytes))
    what = "as it is" if fit.fits_as_it_is or fit.plan is None else "with the plan"
    title = Text(f"Where the peak comes from, {what}", "bold")
    return Padding(Group(title, Padding(grid, (0, 0, 0, 2))), 0)


def _changes(fit: FitValues) -> Padding:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("What would help")
    for name in ("peak as it is", "", "step"):
        table.add_column(name, justify="right", no_wrap=True)
    for change in fit.changes[:_MOST_CHANGES]:
        step = "-" if change.step_ns is None else _time(change.step_ns)
        table.add_row(change.what, format_bytes(change.peak_bytes), _outcome(fit, change), step)
    return Padding(table, 0)


def _outcome(fit: FitValues, change: Change) -> Text:
    if change.planned_bytes is None:
        return Text("still too large", "red")
    if not change.overhead:
        return Text("fits as it is", "green")
    return Text(f"fits with a plan, +{change.overhead:.1%}", "green")


def _time(time_ns: int) -> str:
    return f"{time_ns / 1e9:.2f} s" if time_ns >= 1e9 else f"{time_ns / 1e6:.1f} ms"


def render_table(fits: Sequence[FitValues]) -> Table:
    """Returns the answers for several devices, with what the best way that fits costs on each."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("device")
    table.add_column("room", justify="right", no_wrap=True)
    table.add_column("how it fits")
    for name in ("peak", "step", "per second"):
        table.add_column(name, justify="right", no_wrap=True)
    for fit in fits:
        table.add_row(fit.device, format_bytes(fit.budget_bytes), *_best_of(fit))
    return table


def _best_of(fit: FitValues) -> tuple[str, ...]:
    best = next((way for way in fit.ways if way.fits and way.name is not WayKind.LAYERED), None)
    if best is None:
        return "does not fit", "-", "-", "-"
    how = best.name if not best.overhead else f"{best.name}, +{best.overhead:.1%}"
    rate = _rate(fit, fit.batch, best.step_ns)
    return how, format_bytes(best.peak_bytes), _time(best.step_ns), rate
