"""`autockpt monitor`: runs a training script and shows what it takes while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autockpt.command.grammar.options import Json, Shown
from autockpt.command.grammar.usage_error import TargetError
from autockpt.command.running.files import STANDARD_OUTPUT, check_writable, write
from autockpt.command.running.streams import tell
from autockpt.command.running.told import told

EXAMPLES = (
    "autockpt monitor train.py --epochs 3",
    "autockpt monitor --every 5 --json summary.json train.py",
)
# What stands behind SCRIPT is the script's.
CONTEXT = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def monitor(
    script: Annotated[
        Path,
        typer.Argument(metavar="SCRIPT", help="A training script.", show_default=False),
    ],
    shown: Shown,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ARGS]...", help="Its arguments.", show_default=False),
    ] = None,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time between two lines.", min=0.1)
    ] = 1.0,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="PLAN.json",
            help="The plan to compare with. Default: that of the script's optimized model.",
            show_default=False,
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Run a training script, and show memory, step time and utilisation while it trains.

    Lines go to standard error. A step ends when an optimizer steps. The exit code is the script's.
    """
    with told(shown, owns_output=json == STANDARD_OUTPUT):
        check_writable(json)
        if not script.is_file():
            raise TargetError(f"there is no file {script}")
        if plan is not None and not plan.is_file():
            raise TargetError(f"there is no file {plan}")

        import autockpt
        from autockpt.command.tasks.watching import run_watched

        known = None
        if plan is not None:
            known = autockpt.Plan.load(plan)
        summary = run_watched(
            script,
            tuple(arguments or ()),
            every_s=every,
            plan=known,
            is_shown=not shown.quiet,
        )
        tell(summary.text())
        if json is not None:
            write(json, summary.to_json())
        if summary.error is not None:
            raise summary.error
        if summary.exit_code:
            raise typer.Exit(summary.exit_code)
