"""Plots of an experiment: added time and solver time against the budget, a panel per model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from autockpt.experiments.results import Captured, Cell
from autockpt.experiments.run import Outcome

_MARKERS = "os^Dvx+*<>"
_PANELS_PER_ROW = 3
_LEAST_S = 1e-3  # on the logarithmic axis of times


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    return mpl is not None


def draw(outcome: Outcome, folder: Path) -> Iterator[str]:
    """Draw the plots of every device into a folder; yields the names of the files.

    Raises:
        OSError: A file cannot be written.
    """
    for device in dict.fromkeys(each.device for each in outcome.captured):
        captured = [each for each in outcome.captured if each.device == device]
        for what, label, panel in (
            ("overhead", "added time (% of the step's operations)", _overheads),
            ("solver_time", "time to solve (s)", _times),
        ):
            name = f"{what}-{device.replace('/', '_')}.svg"
            _figure(folder / name, captured, outcome.cells, label, panel)
            yield name


def _figure(
    file: Path,
    captured: Sequence[Captured],
    cells: Sequence[Cell],
    label: str,
    panel: Callable[[Any, Captured, list[Cell]], None],
) -> None:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_columns = min(_PANELS_PER_ROW, len(captured))
    num_rows = math.ceil(len(captured) / num_columns)
    # Text of an SVG stays text, and equal results give equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "autockpt"}):
        figure = Figure(
            figsize=(4.2 * num_columns + 0.4, 3.3 * num_rows + 0.7), layout="constrained"
        )
        FigureCanvasAgg(figure)
        for number, each in enumerate(captured):
            axes = figure.add_subplot(num_rows, num_columns, number + 1)
            panel(axes, each, [cell for cell in cells if cell.captured == each.key])
            axes.set_title(each.model)
            axes.grid(visible=True, alpha=0.25)
            if number % num_columns == 0:
                axes.set_ylabel(label)
            if number + num_columns >= len(captured):
                axes.set_xlabel("budget (% of the eager peak)")
        found = {
            name: line
            for axes in figure.axes
            for line, name in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            found.values(), found.keys(), loc="outside lower center", ncols=6, frameon=False
        )
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def _by_method(captured: Captured, cells: list[Cell]) -> Iterator[tuple[str, int, list[Cell]]]:
    methods = list(dict.fromkeys(cell.method for cell in cells))
    for number, method in enumerate(methods):
        own = [cell for cell in cells if cell.method == method]
        yield method, number, sorted(own, key=lambda cell: cell.budget_bytes)


def _percent(captured: Captured, cells: list[Cell]) -> list[float]:
    return [100 * cell.budget_bytes / captured.eager_peak_bytes for cell in cells]


def _overheads(axes: Any, captured: Captured, cells: list[Cell]) -> None:
    bounded = [cell for cell in cells if cell.has_plan]
    for method, number, own in _by_method(captured, bounded):
        if number == 0:
            bounds = [100 * cell.lower_bound for cell in own]
            axes.plot(
                _percent(captured, own), bounds, "--", color="C0", alpha=0.6, label="proven bound"
            )
        axes.plot(
            _percent(captured, own),
            [100 * cell.overhead for cell in own],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            color=f"C{number}",
            label=method,
        )
    axes.set_ylim(bottom=0)


def _times(axes: Any, captured: Captured, cells: list[Cell]) -> None:
    for method, number, own in _by_method(captured, cells):
        axes.plot(
            _percent(captured, own),
            [max(cell.solve_s, _LEAST_S) for cell in own],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            color=f"C{number}",
            label=method,
        )
    axes.set_yscale("log")
