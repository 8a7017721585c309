"""`autockpt solve`: a plan for a graph file, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autockpt.command.grammar.checks import checked_budget
from autockpt.command.grammar.options import Json, SearchOptions, Shown
from autockpt.command.running import exits
from autockpt.command.running.files import STANDARD_OUTPUT, check_writable, read, write
from autockpt.command.running.streams import say
from autockpt.command.running.told import say_if_stopped, told
from autockpt.command.targets.method import load_method

EXAMPLES = (
    "autockpt solve gpt2.json --budget 60%",
    "autockpt solve gpt2.json --budget 80% --method local --json result.json --schedule steps.json",
)
_TIME_LIMIT_S = 60.0


def solve(
    graph: Annotated[
        Path,
        typer.Argument(
            metavar="GRAPH.json",
            help="A file that autockpt graph wrote, or an object of ops and edges.",
            show_default=False,
        ),
    ],
    budget: Annotated[
        str,
        typer.Option(
            metavar="BUDGET",
            help='"8GB", "8GiB", "800B", or "80%" of the peak if every op runs once.',
            show_default=False,
        ),
    ],
    search: SearchOptions,
    shown: Shown,
    json: Json = None,
    schedule: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Write the steps: \\["compute", op] and \\["free", storage].',
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Solve a graph file for a budget, without a model."""
    with told(shown) as interrupted:
        check_writable(json, schedule)
        checked_budget(budget)
        search.check()
        text = read(graph)

        from autockpt import progress
        from autockpt.command.tasks.graph_file import solve_file

        limit_s = _TIME_LIMIT_S if search.time_limit is None else search.time_limit
        with progress.planning(graph.name, is_shown=not shown.quiet):
            solved = solve_file(
                text, budget, method=load_method(search.method), time_limit_s=limit_s
            )
        say_if_stopped(interrupted)
        if json is not None:
            write(json, solved.json() + "\n")
        if STANDARD_OUTPUT not in (json, schedule):
            say(solved.text())
        if schedule is not None and solved.result.schedule is not None:
            write(schedule, solved.steps() + "\n")
        if solved.result.schedule is None:
            raise typer.Exit(exits.DOES_NOT_FIT)
