"""The results of an experiment as JSON and as a page of Markdown."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

import msgspec

from autockpt.budget import format_bytes
from autockpt.experiments.results import Captured, Cell
from autockpt.experiments.run import Outcome
from autockpt.experiments.spec import Experiment, Published

_LARGE_OVERHEAD = 10  # from here on, in times of the step


class ExperimentResults(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="autockpt-experiment"
):
    """What came out of an experiment, as it is written.

    Attributes:
        experiment: What was asked.
        environment: Versions.
        captured: The captured models.
        cells: The answers.
        problems: Models that could not be captured, and why.
    """

    experiment: Experiment
    environment: dict[str, str]
    captured: tuple[Captured, ...]
    cells: tuple[Cell, ...]
    problems: tuple[str, ...]


def to_json(experiment: Experiment, outcome: Outcome, environment: dict[str, str]) -> str:
    """The results as JSON: the experiment, its environment, captured models and cells."""
    document = ExperimentResults(
        experiment=experiment,
        environment=environment,
        captured=outcome.captured,
        cells=outcome.cells,
        problems=outcome.problems,
    )
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"


def to_markdown(
    experiment: Experiment,
    outcome: Outcome,
    environment: dict[str, str],
    *,
    command: str,
    pictures: Iterable[str] = (),
) -> str:
    """The results as a page.

    Args:
        experiment: What was asked.
        outcome: What came out.
        environment: Versions.
        command: How to run it again.
        pictures: Names of plots beside the page.
    """
    versions = ", ".join(f"{name} {value}" for name, value in environment.items())
    lines = [f"# {experiment.title or 'Experiment'}", ""]
    if experiment.about:
        lines += [experiment.about.strip(), ""]
    lines += [f"Made on {dt.date.today().isoformat()} by `{command}` with {versions}.", ""]
    for name in pictures:
        lines += [f"![{name}]({name})", ""]
    for captured in outcome.captured:
        cells = [cell for cell in outcome.cells if cell.captured == captured.key]
        lines += _section(experiment, captured, cells)
    if outcome.problems:
        lines += ["## What did not run", "", *(f"- {problem}" for problem in outcome.problems), ""]
    return "\n".join(lines)


def _section(experiment: Experiment, captured: Captured, cells: Sequence[Cell]) -> list[str]:
    how = {
        "measured": "measured on this machine",
        "roofline": "estimated",
        "model": "those of the cost model",
    }[captured.cost_source]
    least = format_bytes(captured.least_bytes)
    if captured.least_bound_bytes < captured.least_bytes:
        least += f" (at least {format_bytes(captured.least_bound_bytes)})"
    return [
        f"## {captured.model}, {captured.device}",
        "",
        f"{captured.num_ops} operations, whose times are {how}. The eager step needs "
        f"{format_bytes(captured.eager_peak_bytes)}, of which "
        f"{format_bytes(captured.fixed_bytes)} are fixed. The smallest budget found is {least}.",
        "",
        *_table("added time, and the share of the step that no plan can avoid", cells, _overhead),
        *_table("seconds to solve (processor seconds)", cells, _seconds),
        *_published([each for each in experiment.published if each.model == captured.model]),
    ]


def _table(what: str, cells: Sequence[Cell], shown: object) -> list[str]:
    assert callable(shown)
    methods = list(dict.fromkeys(cell.method for cell in cells))
    by = {(cell.budget, cell.method): cell for cell in cells}
    budgets = list(dict.fromkeys((cell.budget, cell.budget_bytes) for cell in cells))
    names = [f"`{method}`" for method in methods]
    lines = [
        f"{what[0].upper()}{what[1:]}:",
        "",
        "| " + " | ".join(["budget", "", *names]) + " |",
        "|---|---|" + "---|" * len(methods),
    ]
    for name, size in sorted(budgets, key=lambda budget: -budget[1]):
        found = [by.get((name, method)) for method in methods]
        row = [name, format_bytes(size), *("" if cell is None else shown(cell) for cell in found)]
        lines.append("| " + " | ".join(row) + " |")
    return [*lines, ""]


def _overhead(cell: Cell) -> str:
    if not cell.has_plan:
        return cell.status.replace("_", " ")
    bound = "" if cell.lower_bound >= cell.overhead else f" ({_share(cell.lower_bound)})"
    return f"{_share(cell.overhead)}{bound}"


def _share(share: float) -> str:
    return f"+{share:.0%}" if share >= _LARGE_OVERHEAD else f"+{share:.2%}"


def _seconds(cell: Cell) -> str:
    return f"{cell.solve_s:.2f} ({cell.solve_cpu_s:.2f})"


def _published(rows: Sequence[Published]) -> list[str]:
    if not rows:
        return []
    lines = ["Published:", "", "| what | budget | value | source |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {row.budget} | {row.value} | {row.source} |" for row in rows]
    return [*lines, ""]
