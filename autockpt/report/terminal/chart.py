"""The memory of a step over time as a small picture, in blocks or in ASCII."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from autockpt.budget import format_bytes
from autockpt.report.timeline.value import StepTimelines, Timeline

_HEIGHT = 9
_WIDEST = 150
_EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ink:
    """What the picture is drawn with; `partial` fills a cell from below."""

    full: str
    partial: str
    eager: str
    budget: str
    minimum: str
    corner: str
    axis: str
    side: str
    mark: str


_BLOCKS = _Ink(
    full="█", partial=_EIGHTHS, eager="░", budget="─", minimum="·", corner="└", axis="─", side="│",
    mark="┴",
)  # fmt: skip
_ASCII = _Ink(
    full="#", partial=" ..oo#", eager=":", budget="-", minimum=".", corner="+", axis="-",
    side="|", mark="+",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """The memory of a step, in eager PyTorch and under the plan, with the budget as a line.

    Attributes:
        timelines: The step.
        budget_bytes: The budget.
        minimum_bytes: The smallest workable budget; 0 if it is not known.
        eager_bytes: The peak of eager, which is the top of the picture.
        width: Letters in a line.
    """

    timelines: StepTimelines
    budget_bytes: int
    minimum_bytes: int
    eager_bytes: int
    width: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        ink = _ASCII if options.ascii_only else _BLOCKS
        plan, eager = self.timelines.plan, self.timelines.eager
        top_bytes = max(self.eager_bytes, plan.peak_bytes, eager.peak_bytes, 1)
        labels = self._labels(top_bytes)
        margin = max(len(label) for label in labels.values()) + 1
        width = min(self.width, options.max_width, _WIDEST) - margin - 1
        duration_ns = max(plan.duration_ns, eager.duration_ns, 1)
        levels = [_levels(each, width, duration_ns) for each in (plan, eager)]
        for row in reversed(range(_HEIGHT)):
            line = Text(f"{labels.get(row, ''):>{margin - 1}} {ink.side}", no_wrap=True)
            for planned, without in zip(*levels, strict=True):
                line.append(*self._cell(ink, row, planned, without, top_bytes))
            line.rstrip()
            yield line
        yield from self._axis(ink, margin, width, duration_ns)
        yield self._legend(ink, margin)

    def _row_of(self, size_bytes: int, top_bytes: int) -> int:
        return min(_HEIGHT - 1, size_bytes * _HEIGHT // top_bytes)

    def _labels(self, top_bytes: int) -> dict[int, str]:
        """What stands beside the rows; of two that would share a row, the later."""
        named = {_HEIGHT - 1: format_bytes(top_bytes), 0: "0 B"}
        if self.minimum_bytes:
            named[self._row_of(self.minimum_bytes, top_bytes)] = "minimum"
        if self.budget_bytes <= top_bytes:
            named[self._row_of(self.budget_bytes, top_bytes)] = "budget"
        return named

    def _cell(
        self, ink: _Ink, row: int, planned: int, without: int, top_bytes: int
    ) -> tuple[str, str]:
        height = planned * _HEIGHT / top_bytes - row
        is_budget = self.budget_bytes <= top_bytes
        if height >= 1:
            return ink.full, "green"
        if is_budget and row == self._row_of(self.budget_bytes, top_bytes):
            # The line stays visible above the plan and through eager.
            return (ink.full, "green") if height > 0.9 else (ink.budget, "yellow")
        if height > 0:
            return ink.partial[int(height * (len(ink.partial) - 1))], "green"
        if without * _HEIGHT / top_bytes - row >= 0.5:
            return ink.eager, "red"
        if self.minimum_bytes and row == self._row_of(self.minimum_bytes, top_bytes):
            return ink.minimum, "cyan"
        return " ", ""

    def _axis(self, ink: _Ink, margin: int, width: int, duration_ns: int) -> RenderResult:
        at = self.timelines.plan.forward_end_ns * width // duration_ns
        at = min(max(at, 0), width - 1)
        line = ink.axis * width
        yield Text(f"{'':{margin}}{ink.corner}{line[:at]}{ink.mark}{line[at + 1 :]}", no_wrap=True)
        before, after = ("forward" if at >= 8 else ""), ("backward" if width - at >= 10 else "")
        yield Text(f"{'':{margin + 1}}{before:<{at}} {after}".rstrip(), no_wrap=True)

    def _legend(self, ink: _Ink, margin: int) -> Text:
        legend = Text(f"{'':{margin + 1}}")
        legend.append(ink.full, "green").append(" this plan  ")
        legend.append(ink.eager, "red").append(" eager  ")
        if self.budget_bytes <= self.eager_bytes:
            legend.append(ink.budget * 2, "yellow").append(" budget  ")
        if self.minimum_bytes:
            legend.append(ink.minimum * 2, "cyan").append(" minimum")
        legend.rstrip()
        return legend


def _levels(timeline: Timeline, width: int, duration_ns: int) -> list[int]:
    """The most bytes in each of equal parts of the time; 0 after the step has ended."""
    levels = [0] * width
    for moment in timeline.moments:
        first = min(width - 1, moment.start_ns * width // duration_ns)
        end_ns = moment.start_ns + moment.duration_ns
        last = min(width - 1, max(first, (end_ns * width - 1) // duration_ns))
        for at in range(first, last + 1):
            levels[at] = max(levels[at], moment.total_bytes)
    return levels
