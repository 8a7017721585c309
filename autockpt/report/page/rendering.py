"""Puts pages together: one file with its style, its script and its data in it."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from typing import TYPE_CHECKING, Any

from autockpt.report.kinds import MemoryKind
from autockpt.report.page.charts import (
    Panel,
    curve_chart,
    levels_of,
    panel,
    shared_axes,
    small_chart,
)
from autockpt.report.page.data import (
    dumps,
    graph_data,
    groups_data,
    kinds_data,
    packed,
    timeline_data,
)
from autockpt.report.page.formats import format_bytes, format_share, format_time, inert
from autockpt.report.page.groups import COLORS, GROUPS, by_group
from autockpt.report.page.headline import headline
from autockpt.report.page.listing import listing
from autockpt.report.page.tree import tree_of
from autockpt.report.terminal.comparison import compare
from autockpt.report.timeline.value import StepTimelines

if TYPE_CHECKING:
    import jinja2

    from autockpt.report.curve.value import Curve
    from autockpt.report.values import PlanValues

_LIBRARIES = ("autockpt", "torch", "transformers", "diffusers", "numpy", "ortools")


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("autockpt.report.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        # Texts of a plan may come from anywhere.
        finalize=lambda value: inert(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(size=format_bytes, time=format_time, share=format_share)
    return environment


def plan_html(
    plan: PlanValues, timelines: StepTimelines | None, *, json_text: str, curve: Curve | None
) -> str:
    """Returns the page of a plan.

    Args:
        plan: The plan.
        timelines: Its timelines; None if nothing was captured.
        json_text: The plan as JSON, to download.
        curve: What other budgets cost; None leaves that out.
    """
    return _render(
        "plan.html",
        plan=plan,
        headline=headline(plan),
        composition=composition(plan, timelines),
        chart=None if timelines is None else _chart(plan, timelines),
        curve=None if curve is None else curve_chart(curve, plan),
        tree=tree_of(plan.rows) if plan.rows else None,
        data=packed(dumps(_data(plan, timelines))),
        json=packed(json_text),
        versions=versions(),
    )


def diff_html(
    first: tuple[str, PlanValues, StepTimelines | None],
    second: tuple[str, PlanValues, StepTimelines | None],
) -> str:
    """Returns a page with two plans side by side.

    Args:
        first: What to call a plan, the plan, and its timelines; None if nothing was captured.
        second: The same of another plan.
    """
    both = (first, second)
    composed = [
        (inert(name), by_group(plan.ledger), plan.predicted_peak_bytes) for name, plan, _ in both
    ]
    shown = {
        key: (inert(name), plan, timelines.plan)
        for key, (name, plan, timelines) in zip(("first", "second"), both, strict=True)
        if timelines is not None
    }
    kinds: dict[str, int] = {MemoryKind.WORKSPACE: 0, MemoryKind.OPTIMIZER_WORKSPACE: 1}
    data: dict[str, Any] = {
        "timelines": {
            key: timeline_data(timeline, kinds, graph)
            for graph, (key, (_, _, timeline)) in enumerate(shown.items())
        },
        "graphs": [graph_data(timeline) for _, _, timeline in shown.values()],
        "groups": groups_data(),
    }
    data["kinds"] = kinds_data(kinds)
    chart = None
    if shown:
        levels = [
            ("budget" if key == "first" else "minimum", f"budget of {name}", plan.budget_bytes)
            for key, (name, plan, _) in shown.items()
        ]
        axes = shared_axes([timeline for _, _, timeline in shown.values()], levels)
        panels = [panel(key, name, line, axes) for key, (name, _, line) in shown.items()]
        buttons = [(f"peak of {name}", f"{key}:peak") for key, (name, _, _) in shown.items()]
        chart = {"axes": axes, "panels": panels, "buttons": buttons}
    return _render(
        "diff.html",
        comparison=compare(first[1], second[1], (first[0], second[0])),
        composition=composed,
        chart=chart,
        data=packed(dumps(data if shown else {})),
        versions=versions(),
    )


def notebook_html(plan: PlanValues, timelines: StepTimelines | None) -> str:
    """Returns what a notebook shows of a plan: a part of a page, without a script or a style sheet.

    Args:
        plan: The plan.
        timelines: Its timelines; None if nothing was captured.
    """
    return _render(
        "notebook.html",
        plan=plan,
        headline=headline(plan),
        composition=composition(plan, timelines),
        small=None if timelines is None else small_chart(timelines, levels_of(plan)),
        colors=COLORS,
    )


def _render(name: str, **values: Any) -> str:
    return _environment().get_template(name).render(groups=GROUPS, **values)


def _chart(plan: PlanValues, timelines: StepTimelines) -> dict[str, Any]:
    axes = shared_axes((timelines.eager, timelines.plan), levels_of(plan))
    panels: list[Panel] = [
        panel("eager", "Eager PyTorch", timelines.eager, axes),
        panel("plan", "This plan", timelines.plan, axes),
    ]
    buttons = [
        ("peak of the plan", "plan:peak"),
        ("peak of eager", "eager:peak"),
        ("end of the forward", "plan:forward"),
    ]
    return {"axes": axes, "panels": panels, "buttons": buttons}


def composition(
    plan: PlanValues, timelines: StepTimelines | None
) -> list[tuple[str, list[int], int]]:
    """What the peaks are made of: a title, bytes by group, and the sum."""
    eager = [0] * len(GROUPS)
    if timelines is not None:
        eager = by_group(timelines.eager.bytes_by_kind(timelines.eager.peak))
    rows = [("eager PyTorch", eager, plan.baseline_peak_bytes)] if any(eager) else []
    return [*rows, ("this plan", by_group(plan.ledger), plan.predicted_peak_bytes)]


def _data(plan: PlanValues, timelines: StepTimelines | None) -> dict[str, Any]:
    if timelines is None:
        return {}
    kinds: dict[str, int] = {MemoryKind.WORKSPACE: 0, MemoryKind.OPTIMIZER_WORKSPACE: 1}
    graphs = [graph_data(timelines.plan)]
    eager_graph = graph_data(timelines.eager)
    if eager_graph != graphs[0]:
        graphs.append(eager_graph)
    lines = {
        "eager": timeline_data(timelines.eager, kinds, len(graphs) - 1),
        "plan": timeline_data(timelines.plan, kinds),
    }
    return {
        "timelines": lines,
        "kinds": kinds_data(kinds),
        "groups": groups_data(),
        "code": listing(timelines.plan),
        "graphs": graphs,
    }


def versions() -> list[tuple[str, str]]:
    """What the page was written with: names and versions."""
    found = []
    for name in _LIBRARIES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return [*found, ("Python", platform.python_version()), ("system", platform.system())]
