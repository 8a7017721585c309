"""`autockpt plan`: the plan of a training step for a budget."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from autockpt.command.grammar.checks import checked_budget
from autockpt.command.grammar.options import (
    BatchedModelOptions,
    Budget,
    Html,
    Json,
    SearchOptions,
    Shown,
    Target,
)
from autockpt.command.running.files import STANDARD_OUTPUT, check_writable, write
from autockpt.command.running.streams import show, width
from autockpt.command.running.told import say_if_stopped, told
from autockpt.command.targets.method import load_method

if TYPE_CHECKING:
    from autockpt.report.plan import Plan
    from autockpt.report.terminal.tables import Surroundings

EXAMPLES = (
    "autockpt plan zoo:gpt2 --budget 40%",
    "autockpt plan my_models.py:small --budget 8GB --loss mean --optimizer sgd",
    "autockpt plan hf:llama-7b/config.json --device h100 --dtype bf16 --budget 70GB",
    "autockpt plan zoo:bert-large --size full --device meta --budget 8GB --json plan.json",
)

# The search for other budgets takes a second or two on a graph of this size.
_FEW_OPS = 400
_NEARBY_S = 1.0
_NEARBY = (0.85, 1.15, 1.4)


def plan(
    target: Target,
    budget: Budget,
    model: BatchedModelOptions,
    search: SearchOptions,
    shown: Shown,
    json: Json = None,
    html: Html = None,
    accumulate: Annotated[
        bool, typer.Option("--accumulate", help="Plan a step that accumulates gradients.")
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Search again: neither use nor keep plans on disk.")
    ] = False,
) -> None:
    """Plan a training step for a budget, without running a step."""
    with told(shown, target) as interrupted:
        check_writable(json, html)
        wanted = checked_budget(budget)
        search.check()
        model.check(target)

        import autockpt
        from autockpt import progress
        from autockpt.command.targets.target import load_step, noted
        from autockpt.dispatch.kept import none_kept
        from autockpt.report.terminal import tables

        method = load_method(search.method)
        loaded = load_step(target, model, budget=wanted)
        with warnings.catch_warnings(), none_kept() if anew else contextlib.nullcontext():
            if STANDARD_OUTPUT not in (json, html):  # the report says it
                warnings.filterwarnings("ignore", message="the plan for .* recomputes")
            made = autockpt.plan(
                loaded.model,
                wanted,
                **loaded.step,
                method=method,
                time_limit_s=search.time_limit,
                progress=not shown.quiet,
                device=loaded.device,
                accumulates=accumulate,
            )
        made = noted(made, loaded)
        say_if_stopped(interrupted)
        if json is not None:
            write(json, made.to_json())
        if html is not None:
            with progress.planning("the page", is_shown=not shown.quiet):
                write(html, made.to_html())
        if STANDARD_OUTPUT not in (json, html):
            show(tables.render(made, around(made, model.typed(target)), width=width()))


def around(plan: Plan, command: str) -> Surroundings:
    """Returns what a report shows beside a plan.

    Args:
        plan: The plan.
        command: Target and options, as they are typed.
    """
    from autockpt.report.terminal.tables import Surroundings

    return Surroundings(
        timelines=None if plan.schedule is None else plan.timeline(),
        nearby=_nearby(plan),
        command=command,
    )


def _nearby(plan: Plan) -> tuple[tuple[int, int], ...]:
    """Other budgets and what they cost, if that is known or quickly found."""
    is_quick = plan.graph is not None and len(plan.graph.ops) <= _FEW_OPS
    if (
        plan.cheaper_budgets
        or not is_quick
        or not plan.recompute_ns
        or not plan.minimum_bound_bytes
    ):
        return plan.cheaper_budgets
    wanted = [
        budget_bytes
        for budget_bytes in (int(share * plan.budget_bytes) for share in _NEARBY)
        if plan.minimum_peak_bytes <= budget_bytes < plan.baseline_peak_bytes
    ]
    if not wanted or plan.fixed.other_calls_bytes:
        return ()
    found = plan.curve(wanted, time_limit_s=_NEARBY_S).points
    return tuple(
        (point.budget_bytes, point.recompute_ns)
        for point in found
        if point.recompute_ns is not None
        # A short search may miss what this plan's found.
        if (point.budget_bytes > plan.budget_bytes) == (point.recompute_ns < plan.recompute_ns)
    )
