"""The curve of a training step: what each of many budgets costs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from autockpt.budget import format_bytes
from autockpt.report.curve import files, picture, text
from autockpt.report.curve.points import CurvePoint, SimplePoint, knee_of
from autockpt.report.parts import check_not_negative
from autockpt.report.values import COST_SOURCES

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Curve:
    """Budget against overhead; `str(curve)` shows it.

    All bytes are totals of a training step, as in :class:`Plan`.

    Attributes:
        points: A point for each budget, budgets ascending. A larger budget never costs more.
        minimum_peak_bytes: The smallest budget that a plan is known for.
        minimum_bound_bytes: No plan of that plan's class has a lower peak. If both are equal,
            the minimum is proven.
        baseline_peak_bytes: Simulated peak of the step in eager PyTorch.
        baseline_step_ns: Time of all operations of a step, each counted once.
        simple: What simple methods of the engine reach.
        device: The device that the curve is for.
        cost_source: Source of the times: `"measured"` on the device, a `"roofline"` estimate, or
            a cost `"model"` of yours.
        rung: As in :class:`Plan`.
        solve_time_s: Time that the search took, for all points together.
        notes: Anything else that you should know, one sentence each.
    """

    points: tuple[CurvePoint, ...]
    minimum_peak_bytes: int
    minimum_bound_bytes: int
    baseline_peak_bytes: int
    baseline_step_ns: int
    simple: tuple[SimplePoint, ...] = ()
    device: str
    cost_source: str
    rung: str
    solve_time_s: float
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_not_negative(self)
        if self.cost_source not in COST_SOURCES:
            names = " or ".join(map(repr, COST_SOURCES))
            raise ValueError(f"cost_source must be {names}, got {self.cost_source!r}")
        budgets = [point.budget_bytes for point in self.points]
        if not budgets or budgets != sorted(set(budgets)):
            raise ValueError("points must be one or more, with ascending budgets")

    @property
    def knee(self) -> CurvePoint | None:
        """The point below which saving memory becomes dear; None if there is none.

        It is the point farthest below the straight line from the smallest budget's point to the
        cheapest point, with both axes scaled from 0 to 1.
        """
        return knee_of(self.points)

    def __str__(self) -> str:
        return text.plain(self)

    def __repr__(self) -> str:
        first, last = self.points[0], self.points[-1]
        budgets = f"{format_bytes(first.budget_bytes)} to {format_bytes(last.budget_bytes)}"
        return (
            f"<Curve: {len(self.points)} budgets from {budgets}, smallest "
            f"{format_bytes(self.minimum_peak_bytes)}, {self.device}, rung {self.rung!r}>"
        )

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """What a notebook shows: the picture if matplotlib is installed, else the report."""
        try:
            return {"text/plain": str(self), "image/svg+xml": picture.drawn(self, "svg").decode()}
        except ImportError:
            return {"text/plain": str(self)}

    def to_json(self) -> str:
        """Returns the curve as JSON text."""
        return files.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote, and checks it.

        Raises:
            TypeError: If the text is not a str.
            ValueError: If the text is not a curve, is of another version, or is damaged.
        """
        return files.loads(text, cls)

    def to_csv(self) -> str:
        """Returns the points as CSV text, with a header line, then those of simple methods."""
        return files.csv_text(self)

    def to_dataframe(self) -> pd.DataFrame:
        """Returns the rows of `to_csv` as a pandas DataFrame.

        Raises:
            ImportError: If pandas is not installed.
        """
        return files.dataframe(self)

    def save_plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the curve into a file; the suffix (.png, .svg, .pdf) chooses the format.

        Raises:
            ImportError: If matplotlib is not installed.
            OSError: The file cannot be written.
            ValueError: If matplotlib cannot write that format.
        """
        picture.save(self, path)
