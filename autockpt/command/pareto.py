"""`autockpt pareto`: what each of many budgets costs, as text, JSON, CSV and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autockpt.command.grammar.checks import checked_budget
from autockpt.command.grammar.options import BatchedModelOptions, Json, SearchOptions, Shown, Target
from autockpt.command.grammar.usage_error import TargetError
from autockpt.command.running import exits
from autockpt.command.running.files import STANDARD_OUTPUT, check_writable, write
from autockpt.command.running.streams import show, width
from autockpt.command.running.told import say_if_stopped, told
from autockpt.command.targets.method import load_method

if TYPE_CHECKING:
    import autockpt

EXAMPLES = (
    "autockpt pareto zoo:gpt2 --points 30 --plot gpt2.svg",
    "autockpt pareto my_models.py:small --budgets 40%,60%,8GB --csv -",
)


def pareto(
    target: Target,
    model: BatchedModelOptions,
    search: SearchOptions,
    shown: Shown,
    points: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="How many budgets to choose; 20 by default.",
            show_default=False,
        ),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help='Your own budgets instead, such as "40%,60%,8GB".',
            show_default=False,
        ),
    ] = None,
    json: Json = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the points to this file; - for standard output.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw the curve into this file: .png, .svg or .pdf. Needs matplotlib.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show what each of many budgets costs, without running a step.

    The search ends after 8 s, or --time-limit, for all budgets together.
    """
    with told(shown, target) as interrupted:
        if points is not None and points < 1:
            raise TargetError(f"--points is {points}; it must be 1 or more")
        if points is not None and budgets is not None:
            raise TargetError("--points and --budgets exclude each other; give one of them")
        parts = None if budgets is None else [part.strip() for part in budgets.split(",")]
        asked = [checked_budget(part, "--budgets") for part in parts or ()]
        of_device = next((budget for budget in asked if budget.is_of_device), None)
        check_writable(json, csv, plot)
        search.check()
        model.check(target)
        if plot is not None:
            _check_plot(plot)

        import autockpt
        from autockpt.command.targets.target import load_step, noted
        from autockpt.report.curve import text
        from autockpt.report.curve.search import checked_budgets

        wanted = points if parts is None else parts
        checked_budgets(wanted)
        method = load_method(search.method)
        loaded = load_step(target, model, budget=of_device)
        curve = autockpt.pareto(
            loaded.model,
            wanted,
            **loaded.step,
            method=method,
            time_limit_s=search.time_limit,
            progress=not shown.quiet,
            device=loaded.device,
        )
        curve = noted(curve, loaded)
        say_if_stopped(interrupted)
        if plot is not None:
            _draw(curve, plot)
        for file, content in ((json, curve.to_json), (csv, curve.to_csv)):
            if file is not None:
                write(file, content())
        if STANDARD_OUTPUT not in (json, csv):
            show(text.render(curve, width=width()))
        if not any(point.fits for point in curve.points):
            raise typer.Exit(exits.DOES_NOT_FIT)


def _check_plot(file: Path) -> None:
    """Fails before the work is done if the picture cannot be drawn."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TargetError(
            '--plot needs matplotlib, which is not installed: pip install "autockpt[plot]"'
        ) from error
    known = Figure().canvas.get_supported_filetypes()
    if file.suffix.lower().removeprefix(".") not in known:
        raise TargetError(
            f"cannot draw {file}: the suffix {file.suffix!r} names no format; use .png, .svg or "
            ".pdf"
        )


def _draw(curve: autockpt.Curve, file: Path) -> None:
    try:
        curve.save_plot(file)
    except OSError as error:
        raise TargetError(str(error)) from error
