"""`autockpt explain`: why something is saved or recomputed, and what the other choice costs."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autockpt.command.grammar.options import BatchedModelOptions, Json, SearchOptions, Shown
from autockpt.command.grammar.usage_error import TargetError
from autockpt.command.running.files import STANDARD_OUTPUT, check_writable, write
from autockpt.command.running.streams import show, width
from autockpt.command.running.told import say_if_stopped, told
from autockpt.command.targets.source import Source, SourceBudget, check_source, load_plan

if TYPE_CHECKING:
    from rich.console import RenderableType

    from autockpt.choices.explain import Explanation, OpChoice, OtherChoice
    from autockpt.report.plan import Plan

EXAMPLES = (
    "autockpt explain plan.json transformer.h.3.mlp",
    "autockpt explain zoo:gpt2 transformer.h.[0-11].attn --budget 40%",
)
_MOST_OPS = 20


def explain(
    source: Source,
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODULE|NODE",
            help="A module, also folded as in the report, h.[0-3].attn; or an operation.",
            show_default=False,
        ),
    ],
    model: BatchedModelOptions,
    search: SearchOptions,
    shown: Shown,
    budget: SourceBudget = None,
    json: Json = None,
) -> None:
    """Show why a module or operation is saved or recomputed, and what the opposite costs.

    The opposite is simulated, with everything else as in the plan.
    """
    with told(shown, source) as interrupted:
        check_writable(json)
        search.check()
        check_source(source, budget, model)

        from autockpt.choices.explain import explain as explain_ops
        from autockpt.choices.modules import named_ops

        plan, _ = load_plan(source, budget, model, search, shown)
        say_if_stopped(interrupted)
        if plan.graph is None or plan.schedule is None:
            raise TargetError("nothing was captured, so nothing is saved or recomputed by a plan")
        explanation = explain_ops(plan, named_ops(plan.graph, name))
        if json is not None:
            write(json, json_module.dumps(_values(plan, name, explanation), indent=1) + "\n")
        if json != STANDARD_OUTPUT:
            show(_render(plan, name, explanation))


def _values(plan: Plan, name: str, explanation: Explanation) -> dict[str, Any]:
    import dataclasses

    assert plan.graph is not None
    return {
        "name": name,
        "budget_bytes": plan.budget_bytes,
        "predicted_peak_bytes": plan.predicted_peak_bytes,
        "at_peak_bytes": explanation.at_peak_bytes,
        "choices": [
            dataclasses.asdict(each) | {"name": plan.graph.ops[each.op].name}
            for each in explanation.choices
        ],
        "others": [
            dataclasses.asdict(each) | {"fits": each.peak_bytes <= plan.budget_bytes}
            for each in explanation.others
        ],
    }


def _render(plan: Plan, name: str, explanation: Explanation) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from autockpt.budget import format_bytes
    from autockpt.report.terminal.names import shortened, without_folders
    from autockpt.report.words.inert import inert
    from autockpt.report.words.sentences import format_time

    assert plan.graph is not None
    counts: dict[str, list[int]] = {}
    for each in explanation.choices:
        count = counts.setdefault(each.choice, [0, 0, 0])
        count[0] += 1
        count[1] += each.size_bytes
        count[2] += (each.num_runs - 1) * each.runtime_ns
    parts: list[RenderableType] = [Text(inert(name), "bold")]
    for choice, (num, size_bytes, time_ns) in counts.items():
        cost = f", {format_time(time_ns)} more" if time_ns else ""
        operations = "operation" if num == 1 else "operations"
        parts.append(Text(f"  {choice}: {num} {operations}, {format_bytes(size_bytes)}{cost}"))
    at_peak = format_bytes(explanation.at_peak_bytes)
    parts += [Text(f"  {at_peak} of it are in memory at the peak"), Text("")]
    for other in explanation.others:
        parts += [_other(plan, other), Text("")]
    if not explanation.others:
        parts += [Text("No other choice: nothing of it can be saved or recomputed."), Text("")]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("operation", no_wrap=True)
    for header in ("bytes", "runs", "time of one"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("choice", no_wrap=True)
    table.add_column("line", no_wrap=True)
    # What the backward does not need is of interest only if there is nothing else.
    needed = [each for each in explanation.choices if each.choice in ("saved", "recomputed")]
    listed = needed or list(explanation.choices)
    largest = sorted(listed, key=lambda each: -each.size_bytes)[:_MOST_OPS]
    names = [shortened(plan.graph.ops[each.op].name, 28) for each in largest]
    wide = max((len(_word(each)) for each in largest), default=0)
    # What other columns leave for the source line.
    room = max(16, width() - max(map(len, names), default=0) - wide - 37)
    for each in (each for each in listed if each in largest):
        line = plan.places.line_of(each.op)
        table.add_row(
            Text(shortened(plan.graph.ops[each.op].name, 28)),
            format_bytes(each.size_bytes),
            str(each.num_runs),
            format_time(each.runtime_ns),
            Text(_word(each)),
            Text("" if line is None else without_folders(inert(str(line)), room), "dim"),
        )
    if len(listed) > _MOST_OPS:
        table.add_row(f"... {len(listed) - _MOST_OPS} smaller", "", "", "", "", "")
    return Group(*parts, table)


def _word(choice: OpChoice) -> str:
    once = choice.choice == "saved" and not choice.can_run_again
    return choice.choice.removesuffix(" by the backward") + (", cannot run again" if once else "")


def _other(plan: Plan, other: OtherChoice) -> RenderableType:
    """Why the plan chose as it did, from what the other choice costs."""
    from rich.text import Text

    from autockpt.budget import format_bytes
    from autockpt.report.words.sentences import format_time

    peak, budget = format_bytes(other.peak_bytes), format_bytes(plan.budget_bytes)
    more = f"{'+' if other.more_bytes >= 0 else ''}{format_bytes(other.more_bytes)}"
    sign = "+" if other.more_ns >= 0 else "-"
    share = abs(other.more_ns) / max(1, plan.baseline_step_ns)
    time = f"{sign}{format_time(abs(other.more_ns))}, {sign}{share:.2%} of a step"
    fits = other.peak_bytes <= plan.budget_bytes
    now = "recomputed" if other.choice == "saved" else "saved"
    if other.choice == "saved":
        over_bytes = other.peak_bytes - plan.budget_bytes
        why = (
            "It fits: the search missed this cheaper choice."
            if fits
            else f"That is {format_bytes(over_bytes)} over the budget, so it is recomputed."
        )
    elif other.more_bytes < 0 and not fits:
        why = "The plan would exceed the budget either way."
    elif other.more_bytes < 0:
        why = "The plan fits without recomputing it, so it is saved."
    else:
        why = "That does not lower the peak, so it is saved."
    return Text.assemble(
        (f"{len(other.ops)} {now}, {other.choice} instead", "bold"),
        f": peak {peak} of {budget} ({more}), time {time}. {why}",
    )
