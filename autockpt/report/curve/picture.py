"""Draws a curve with matplotlib, which is imported only then."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autockpt.report.files.plan_file import write_whole

if TYPE_CHECKING:
    from autockpt.report.curve.value import Curve

_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "bytes"))
_MARKERS = "s^Dvx+"


def save(curve: Curve, path: str | os.PathLike[str]) -> None:
    """Draws a curve into a file; see `Curve.save_plot`."""
    kind = Path(path).suffix.lower().removeprefix(".")
    write_whole(path, drawn(curve, kind), what="draw")


def drawn(curve: Curve, kind: str) -> bytes:
    """Draws a curve.

    Args:
        curve: The curve.
        kind: A format that matplotlib knows, such as `"svg"`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If matplotlib does not know the format.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'save_plot needs matplotlib, which is not installed: pip install "autockpt[plot]". '
            "print(curve) draws it as text without it."
        ) from error
    # Text of an SVG stays text, and equal curves give equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "autockpt"}):
        figure = Figure(figsize=(7.5, 4.5), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)  # no window, whatever backend is chosen elsewhere
        _draw(curve, figure.add_subplot())
        picture = io.BytesIO()
        figure.savefig(picture, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return picture.getvalue()


def _draw(curve: Curve, axes: Any) -> None:
    size, unit = next(pair for pair in _UNITS if curve.baseline_peak_bytes >= pair[0])
    fitting = [point for point in curve.points if point.overhead is not None]
    budgets = [point.budget_bytes / size for point in fitting]
    overheads = [100 * (point.overhead or 0.0) for point in fitting]
    bounds = [100 * (point.lower_bound or 0.0) for point in fitting]
    axes.fill_between(budgets, 0, bounds, color="tab:blue", alpha=0.15, linewidth=0)
    axes.plot(budgets, bounds, color="tab:blue", alpha=0.5, linestyle="--", label="proven bound")
    axes.plot(budgets, overheads, color="tab:blue", marker="o", markersize=4, label="autockpt")
    knee = curve.knee
    if knee is not None:
        at = (knee.budget_bytes / size, 100 * (knee.overhead or 0.0))
        axes.plot(*at, marker="o", markersize=11, fillstyle="none", color="tab:red")
        axes.annotate("knee", at, xytext=(8, 8), textcoords="offset points", color="tab:red")
    for k, name in enumerate(dict.fromkeys(point.method for point in curve.simple)):
        plans = [point for point in curve.simple if point.method == name]
        axes.plot(
            [point.predicted_peak_bytes / size for point in plans],
            [100 * point.overhead for point in plans],
            linestyle="none",
            marker=_MARKERS[k % len(_MARKERS)],
            markersize=5,
            color=f"C{k + 1}",
            alpha=0.8,
            label=name,
        )
    lines = (
        (curve.minimum_peak_bytes, "tab:gray", ":", "minimum"),
        (curve.baseline_peak_bytes, "tab:gray", "-.", "eager"),
    )
    for at_bytes, color, style, name in lines:
        axes.axvline(at_bytes / size, color=color, linestyle=style, linewidth=1, label=name)
    axes.set_xlabel(f"memory of a training step ({unit})")
    axes.set_ylabel("recomputation (% of a step's operation time)")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.25)
    axes.legend(frameon=False)
