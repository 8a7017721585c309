"""The pictures of a page as plain values: positions are percentages of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autockpt.report.curve.value import Curve
from autockpt.report.page.areas import HEIGHT, NUM_COLUMNS, Area, areas, columns, outline
from autockpt.report.page.formats import (
    byte_ticks,
    format_bytes,
    format_share,
    format_time,
    inert,
    time_ticks,
)
from autockpt.report.page.groups import GROUPS, by_group
from autockpt.report.timeline.value import StepTimelines, Timeline
from autockpt.report.values import PlanValues

_LABEL_PERCENT = 7.0  # how far labels of lines are apart
_HEADROOM = 1.12  # for the labels at the top
_NUM_ROWS = 16
_SMALL_COLUMNS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A level across a picture: its height, and where its label goes so that none overlap."""

    key: str
    label: str
    size: str
    percent: float
    label_percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """The memory of one step over time.

    Attributes:
        key: Its name for the script.
        title: What it shows.
        summary: What a reader would see, in words.
        areas: The stacked areas.
        forward_percent: Where the forward ends.
        end_percent: Where the step ends.
        peak_percents: Where the peak is: from the left, from the bottom.
        peak: The peak, in words.
        table: The same in figures: a time and what happens, with bytes by group.
    """

    key: str
    title: str
    summary: str
    areas: list[Area]
    forward_percent: float
    end_percent: float
    peak_percents: tuple[float, float]
    peak: str
    table: list[tuple[str, str, list[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What all panels of a page share."""

    most_ns: int
    most_bytes: int
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    limits: list[Limit]


def shared_axes(timelines: Sequence[Timeline], levels: Sequence[tuple[str, str, int]]) -> Axes:
    """Axes for timelines and levels, which are a key, a label and bytes."""
    most_ns = max(timeline.duration_ns for timeline in timelines)
    peak_bytes = max(timeline.peak_bytes for timeline in timelines)
    # A budget far above everything would flatten the picture.
    shown = [level for level in levels if level[2] <= 1.5 * peak_bytes]
    most_bytes = round(_HEADROOM * max([peak_bytes, *(size for _, _, size in shown)]))
    return Axes(
        most_ns=most_ns,
        most_bytes=most_bytes,
        x_ticks=[(100 * at, label) for at, label in time_ticks(most_ns)],
        y_ticks=[(100 * at, label) for at, label in byte_ticks(most_bytes)],
        limits=_limits(shown, most_bytes),
    )


def levels_of(plan: PlanValues) -> list[tuple[str, str, int]]:
    """The levels that a plan has: its budget, its minimum and what was measured."""
    levels = [("budget", "budget", plan.budget_bytes)]
    if plan.minimum_bound_bytes:
        levels.append(("minimum", "smallest budget", plan.minimum_peak_bytes))
    if plan.measured_peak_bytes is not None:
        levels.append(("measured", "measured", plan.measured_peak_bytes))
    return levels


def _limits(levels: Sequence[tuple[str, str, int]], most_bytes: int) -> list[Limit]:
    limits: list[Limit] = []
    above = 100 + _LABEL_PERCENT
    for key, label, size_bytes in sorted(levels, key=lambda level: -level[2]):
        percent = 100 * size_bytes / most_bytes
        above = min(percent, above - _LABEL_PERCENT)
        limits.append(
            Limit(
                key=key,
                label=label,
                size=format_bytes(size_bytes),
                percent=percent,
                label_percent=above,
            )
        )
    return limits


def panel(key: str, title: str, timeline: Timeline, axes: Axes) -> Panel:
    """The picture of a timeline."""
    peak = timeline.moments[timeline.peak]
    shown = columns(timeline, axes.most_ns)
    at = next(i for i, moment in enumerate(shown) if moment == timeline.peak)
    by_kind = timeline.bytes_by_kind(timeline.peak)
    largest = sorted(zip(by_group(by_kind), GROUPS, strict=True), key=lambda pair: -pair[0])
    parts = [f"{format_bytes(size)} of {group.label}" for size, group in largest if size]
    where = what_happens(timeline, timeline.peak)
    percent = 100 / max(1, axes.most_ns)
    return Panel(
        key=key,
        title=title,
        summary=(
            f"The step takes {format_time(timeline.duration_ns)}, with the forward in the first "
            f"{format_time(timeline.forward_end_ns)}. Memory is at its peak of "
            f"{format_bytes(peak.total_bytes)} after {format_time(peak.start_ns)}, in {where}: "
            f"{', '.join(parts)}."
        ),
        areas=areas(timeline, most_ns=axes.most_ns, most_bytes=axes.most_bytes),
        forward_percent=timeline.forward_end_ns * percent,
        end_percent=timeline.duration_ns * percent,
        peak_percents=(
            100 * (at + 0.5) / NUM_COLUMNS,
            100 * peak.total_bytes / max(1, axes.most_bytes),
        ),
        peak=f"peak {format_bytes(peak.total_bytes)}",
        table=_table(timeline),
    )


def what_happens(timeline: Timeline, index: int, *, with_line: bool = True) -> str:
    """What runs at a moment, in words."""
    while index > 0 and timeline.moments[index].op is None:
        index -= 1
    moment = timeline.moments[index]
    if moment.op is None:
        return "the beginning"
    op = timeline.graph.ops[moment.op]
    phase = "the backward" if index > timeline.forward_end else "the forward"
    again = " again" if moment.run > 1 else ""
    inside = f" of {inert(op.segment)}" if op.segment else ""
    line = timeline.places.line_of(moment.op)
    where = f", {inert(str(line))}" if line is not None and with_line else ""
    return f"{phase}{inside} ({inert(op.name)}{again}{where})"


def _table(timeline: Timeline) -> list[tuple[str, str, list[str]]]:
    """Some moments of a timeline, evenly spaced, with its peak and the end of the forward."""
    moments = timeline.moments
    wanted = {0, timeline.peak, max(0, timeline.forward_end), len(moments) - 1}
    wanted |= set(columns(timeline, timeline.duration_ns)[:: NUM_COLUMNS // _NUM_ROWS])
    return [
        (
            format_time(moments[at].start_ns),
            what_happens(timeline, at, with_line=False)
            + (" — the peak" if at == timeline.peak else ""),
            [
                format_bytes(size) if size else "\N{EN DASH}"
                for size in (*by_group(timeline.bytes_by_kind(at)), moments[at].total_bytes)
            ],
        )
        for at in sorted(wanted)
        if at >= 0
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallChart:
    """Both timelines in one small picture: the plan as areas, eager as a line."""

    areas: list[Area]
    eager: str
    axes: Axes
    forward_percent: float
    duration: str


def small_chart(timelines: StepTimelines, levels: Sequence[tuple[str, str, int]]) -> SmallChart:
    """A picture for a notebook."""
    axes = shared_axes((timelines.eager, timelines.plan), levels)
    scale = {
        "most_ns": axes.most_ns,
        "most_bytes": axes.most_bytes,
        "num_columns": _SMALL_COLUMNS,
    }
    return SmallChart(
        areas=areas(timelines.plan, **scale),
        eager=outline(timelines.eager, **scale),
        axes=axes,
        forward_percent=100 * timelines.plan.forward_end_ns / max(1, axes.most_ns),
        duration=format_time(axes.most_ns),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A plan on the picture of a curve."""

    key: str
    label: str
    left: float
    bottom: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveChart:
    """A curve of budgets and what they cost.

    Attributes:
        line: The curve, as the `d` of an SVG path.
        bound: What is below the proven bound, the same way.
        dots: The plans of the curve, of simple methods, and this one.
        x_ticks: Budgets.
        y_ticks: Times.
        num_above: How many plans cost more than the picture shows.
        rows: The same in figures.
    """

    line: str
    bound: str
    dots: list[Dot]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    num_above: int
    rows: list[tuple[str, str, str, str]]


def curve_chart(curve: Curve, plan: PlanValues) -> CurveChart:
    """The picture of a curve, with a plan on it."""
    most_bytes = round(
        _HEADROOM
        * max(curve.baseline_peak_bytes, plan.predicted_peak_bytes, curve.points[-1].budget_bytes)
    )
    fitting = [point for point in curve.points if point.overhead is not None]
    overheads = sorted(point.overhead or 0.0 for point in fitting)
    # Close to the smallest budget plans may cost many times what others do.
    usual = overheads[len(overheads) * 3 // 4] if overheads else 0.0
    most = 1.15 * max(2 * plan.overhead, usual, 0.05)
    if overheads:
        most = min(most, 1.15 * max(overheads[-1], plan.overhead, 0.01))
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 1e9) if most / s <= 5)

    def place(size_bytes: int, overhead: float) -> tuple[float, float]:
        return 100 * size_bytes / most_bytes, 100 * overhead / most

    def path(corners: list[tuple[float, float]]) -> str:
        return "M" + " ".join(f"{x * 10:.1f},{HEIGHT - y * 10:.1f}" for x, y in corners)

    known = [(point.budget_bytes, point.overhead or 0.0) for point in fitting]
    known = sorted([*known, (plan.predicted_peak_bytes, plan.overhead)])
    # What is known for a budget also fits every larger one.
    line = [
        place(size_bytes, min(cost for _, cost in known[: at + 1]))
        for at, (size_bytes, _) in enumerate(known)
    ]
    bound = [place(point.budget_bytes, point.lower_bound or 0.0) for point in fitting]
    simple = [
        Dot(
            key="simple",
            label=f"{point.method}: {format_bytes(point.predicted_peak_bytes)} at "
            f"{format_share(point.overhead, signed=True)} time",
            left=place(point.predicted_peak_bytes, 0.0)[0],
            bottom=place(0, point.overhead)[1],
        )
        for point in curve.simple
    ]
    dots = [
        Dot(
            key="point",
            label=f"{format_bytes(point.budget_bytes)}: "
            f"{format_share(point.overhead or 0.0, signed=True)} time",
            left=place(point.budget_bytes, 0.0)[0],
            bottom=place(0, point.overhead or 0.0)[1],
        )
        for point in fitting
    ]
    left, bottom = place(plan.predicted_peak_bytes, plan.overhead)
    this = Dot(
        key="this",
        label=f"this plan: {format_bytes(plan.predicted_peak_bytes)} at "
        f"{format_share(plan.overhead, signed=True)} time",
        left=min(left, 100),
        bottom=bottom,
    )
    shown = [dot for dot in (*simple, *dots) if dot.bottom <= 100 and dot.left <= 100]
    return CurveChart(
        line=path(line),
        bound=path([(bound[0][0], 0.0), *bound, (bound[-1][0], 0.0)]) + "Z" if bound else "",
        dots=[*shown, this],
        x_ticks=[(100 * at, label) for at, label in byte_ticks(most_bytes)],
        y_ticks=[
            (100 * at * step / most, f"+{at * step:.0%}") for at in range(int(most / step) + 1)
        ],
        num_above=len(simple) + len(dots) - len(shown),
        rows=_curve_rows(curve),
    )


def _curve_rows(curve: Curve) -> list[tuple[str, str, str, str]]:
    rows = []
    for point in curve.points:
        fits = point.overhead is not None
        rows.append(
            (
                format_bytes(point.budget_bytes),
                inert(point.method),
                format_share(point.overhead or 0.0, signed=True) if fits else "does not fit",
                format_share(point.lower_bound or 0.0, signed=True) if fits else "",
            )
        )
    for simple in sorted(curve.simple, key=lambda each: each.predicted_peak_bytes):
        cost = format_share(simple.overhead, signed=True)
        rows.append((format_bytes(simple.predicted_peak_bytes), inert(simple.method), cost, ""))
    return rows
