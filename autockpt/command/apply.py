"""`autockpt apply`: the lines to paste, and the nearest that torch does alone."""

from __future__ import annotations

import json as json_module
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autockpt.command.grammar.checks import REDUCTIONS
from autockpt.command.grammar.options import BatchedModelOptions, Json, SearchOptions, Shown
from autockpt.command.running.files import STANDARD_OUTPUT, check_writable, write
from autockpt.command.running.streams import show, width
from autockpt.command.running.told import say_if_stopped, told
from autockpt.command.targets.source import Source, SourceBudget, check_source, is_file, load_plan

if TYPE_CHECKING:
    from rich.console import RenderableType

    from autockpt.choices.plain import Plain
    from autockpt.report.plan import Plan

EXAMPLES = (
    "autockpt apply zoo:gpt2 --budget 40%",
    "autockpt apply plan.json",
)


def apply(
    source: Source,
    model: BatchedModelOptions,
    search: SearchOptions,
    shown: Shown,
    budget: SourceBudget = None,
    json: Json = None,
) -> None:
    """Print lines to paste: the call of autockpt, and the nearest with torch.utils.checkpoint.

    What plain checkpointing costs is simulated on the plan's graph.
    """
    with told(shown, source) as interrupted:
        check_writable(json)
        search.check()
        check_source(source, budget, model)

        from autockpt.choices.plain import nearest_plain

        plan, built = load_plan(source, budget, model, search, shown)
        say_if_stopped(interrupted)
        ways = () if plan.graph is None else nearest_plain(plan, built)
        lines = _call(plan, source, model.loss)
        if json is not None:
            write(json, json_module.dumps(_values(plan, lines, ways), indent=1) + "\n")
        if json != STANDARD_OUTPUT:
            show(_render(plan, lines, ways))


def _call(plan: Plan, source: str, loss: str | None) -> list[str]:
    """The one call, with what else the plan depends on; a file does not say its loss."""
    from autockpt.budget import sufficient_budget
    from autockpt.report.words.headline import optimizer_argument

    given = f'"{sufficient_budget(plan.budget_bytes)}"'
    if is_file(source):
        given = f"plan={json_module.dumps(Path(source).as_posix(), ensure_ascii=False)}"
    arguments = f"model, {given}{optimizer_argument(plan)}"
    lines = ["import autockpt", ""]
    if loss in REDUCTIONS:
        arguments += f", loss_fn=lambda output: output.{loss}()"
    elif loss is not None:
        lines += ["# loss_fn is the function that --loss names"]
        arguments += ", loss_fn=loss_fn"
    elif is_file(source):
        lines += ["# if the plan was made with a loss_fn (--loss), add the same one here"]
    return [*lines, f"model = autockpt.optimize({arguments})"]


def _values(plan: Plan, lines: list[str], ways: tuple[Plain, ...]) -> dict[str, Any]:
    return {
        "code": lines,
        "budget_bytes": plan.budget_bytes,
        "predicted_peak_bytes": plan.predicted_peak_bytes,
        "overhead": plan.overhead,
        "plain": [
            {
                "name": way.name,
                "code": list(way.code),
                "peak_bytes": way.peak_bytes,
                "overhead": way.recompute_ns / max(1, plan.baseline_step_ns),
                "fits": way.fits,
            }
            for way in ways
        ],
    }


def _render(plan: Plan, lines: list[str], ways: tuple[Plain, ...]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from autockpt.budget import format_bytes
    from autockpt.report.words.headline import headline
    from autockpt.report.words.inert import inert

    def code(lines: list[str] | tuple[str, ...]) -> list[RenderableType]:
        return [Text(inert(line), "cyan", no_wrap=True, overflow="ignore") for line in lines]

    def comment(text: str) -> list[RenderableType]:
        wrapped = textwrap.wrap(inert(text), width() - 2)
        return [Text(f"# {line}", "dim") for line in wrapped]

    parts: list[RenderableType] = [*comment(headline(plan)), *code(lines)]
    if not plan.recompute_ns:
        return Group(*parts)
    for way in ways:
        share = way.recompute_ns / max(1, plan.baseline_step_ns)
        stand = "" if way.fits else f", over the budget of {format_bytes(plan.budget_bytes)}"
        extra = share - plan.overhead
        more = f"{abs(extra):.1%} of a step {'more' if extra >= 0 else 'less'} than this plan"
        parts += [
            Text(""),
            *comment("The nearest with torch alone:" if way.fits else "With torch alone:"),
            *comment(
                f"{way.name}: peak {format_bytes(way.peak_bytes)}{stand}, +{share:.1%} time, {more}"
            ),
            *code(way.code),
        ]
    if not ways:
        parts += [
            Text(""),
            *comment("With torch alone: the model has no list of layers to checkpoint."),
        ]
    return Group(*parts)
