"""A plan from a plan file, or made for a target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autockpt.command.grammar.checks import checked_budget
from autockpt.command.grammar.options import BatchedModelOptions, SearchOptions, Shown
from autockpt.command.grammar.usage_error import TargetError
from autockpt.command.targets.method import load_method

if TYPE_CHECKING:
    import torch

    from autockpt.report.plan import Plan

Source = Annotated[
    str,
    typer.Argument(
        metavar="TARGET|PLAN.json",
        help="A target as for plan, which needs --budget; or a file that autockpt plan --json or "
        "Plan.save wrote.",
        show_default=False,
    ),
]
SourceBudget = Annotated[
    str | None,
    typer.Option(
        metavar="BUDGET",
        help='Memory of a training step, for a target: "8GB", "60%".',
        show_default=False,
    ),
]


def is_file(source: str) -> bool:
    """Whether a source is a plan file."""
    return source.endswith(".json") and not source.startswith("hf:")


def check_source(source: str, budget: str | None, model: BatchedModelOptions) -> None:
    """Fails before anything is imported or built if there is no such plan.

    Raises:
        TargetError: The file is not there, or a target lacks its budget.
        ValueError: As for `plan`.
    """
    if is_file(source):
        if not Path(source).is_file():
            raise TargetError(f"there is no file {source}")
        if budget is not None:
            raise TargetError(f"{source} is a plan and has its budget; leave out --budget")
        return
    if budget is None:
        raise TargetError(f"{source} needs a budget: add --budget 8GB, or --budget 60%")
    checked_budget(budget)
    model.check(source)


def load_plan(
    source: str,
    budget: str | None,
    model: BatchedModelOptions,
    search: SearchOptions,
    shown: Shown,
) -> tuple[Plan, torch.nn.Module | None]:
    """Returns the plan of a file; or the plan of a target for a budget, and its model."""
    import autockpt
    from autockpt.command.targets.target import load_step, noted

    if is_file(source):
        try:
            return autockpt.Plan.load(source), None
        except OSError as error:
            raise TargetError(str(error)) from error
    assert budget is not None
    wanted = checked_budget(budget)
    loaded = load_step(source, model, budget=wanted)
    plan = autockpt.plan(
        loaded.model,
        wanted,
        **loaded.step,
        method=load_method(search.method),
        time_limit_s=search.time_limit,
        progress=not shown.quiet,
        device=loaded.device,
    )
    return noted(plan, loaded), loaded.model
