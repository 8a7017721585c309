"""`autockpt bench`: runs an experiment, and goes on where an earlier run was interrupted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autockpt.command.grammar.options import Json, Shown
from autockpt.command.grammar.usage_error import TargetError
from autockpt.command.running import exits
from autockpt.command.running.files import STANDARD_OUTPUT, check_writable, write
from autockpt.command.running.streams import console_of_errors, say, tell
from autockpt.command.running.told import told

if TYPE_CHECKING:
    from autockpt.experiments.run import Run
    from autockpt.experiments.spec import Experiment

EXAMPLES = (
    "autockpt bench experiment.toml",
    "autockpt bench experiment.toml --output results",
    "autockpt bench peers --models opt,bert",
)
_PEERS = "peers"
_LOGGER = logging.getLogger("autockpt")


def bench(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.toml|peers",
            help="Models, budgets, methods and devices; or peers, to compare with other ways to "
            "train in less memory.",
            show_default=False,
        ),
    ],
    shown: Shown,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="The folder for results. Default: the name of the file with -results.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="For peers: the models, separated by commas.", show_default=False
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(metavar="N", help="For peers: rounds of each race.", min=1)
    ] = 11,
    json: Json = None,
) -> None:
    """Run an experiment: every method at every budget for every model and device.

    Results that are in the folder already are not computed again.
    """
    with told(shown):
        check_writable(json)
        speak = tell if json == STANDARD_OUTPUT else say
        if str(file) == _PEERS:
            from autockpt.command.tasks.peers import run_peers
            from autockpt.experiments.peers.measure import Rules

            folder = output or Path("peers-results")
            raced = run_peers(folder, models, Rules(num_rounds=rounds))
            speak(f"{len(raced.races)} races: {folder / 'peers.md'}")
            if json is not None:
                write(json, raced.to_json())
            return
        if models is not None:
            raise TargetError("--models is for autockpt bench peers; an experiment names its own")

        from autockpt.experiments.spec import read_experiment

        experiment = read_experiment(file)

        from autockpt.command.targets.experiment import Names
        from autockpt.experiments.page import to_json
        from autockpt.experiments.results import Results
        from autockpt.experiments.run import Run

        sources = Names(folder=file.parent).checked(experiment)
        folder = output or file.with_name(f"{file.stem}-results")
        run = Run(experiment, sources, Results(folder))
        try:
            _run(run, quiet=shown.quiet)
        except KeyboardInterrupt:
            tell("what is solved is kept: the same command goes on from there")
            raise
        finally:
            _write(experiment, run, sources.environment, file, folder)
        outcome = run.outcome
        known = len(outcome.cells) - outcome.num_solved
        speak(
            f"{outcome.num_solved} cells solved, {known} known before, "
            f"{run.num_cells - len(outcome.cells)} without a result: {folder / 'results.md'}"
        )
        for problem in outcome.problems:
            tell(f"did not run: {problem}")
        if json is not None:
            write(json, to_json(experiment, outcome, sources.environment))
        if not outcome.cells:
            raise typer.Exit(exits.NOT_CAPTURED)


def _run(run: Run, *, quiet: bool) -> None:
    """Run the experiment with a bar on a terminal, and with a line for each cell elsewhere."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    console = console_of_errors()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    is_drawn = console.is_terminal and not quiet
    with Progress(*columns, console=console, disable=not is_drawn, transient=True) as bar:
        task = bar.add_task("autockpt bench", total=run.num_cells)
        for step in run.steps():
            bar.update(task, description=step.what, completed=step.num_done, total=step.num_all)
            if not is_drawn:
                _LOGGER.info("%s (%d of %d)", step.what, step.num_done, step.num_all)


def _write(
    experiment: Experiment, run: Run, environment: dict[str, str], file: Path, folder: Path
) -> None:
    from autockpt.experiments.page import to_json, to_markdown
    from autockpt.experiments.pictures import can_draw, draw

    outcome = run.outcome
    if not outcome.captured and not outcome.problems:
        return
    try:
        pictures = list(draw(outcome, folder)) if can_draw() and outcome.captured else []
    except OSError as error:
        raise TargetError(f"cannot write {error.filename}: {error.strerror}") from error
    write(folder / "results.json", to_json(experiment, outcome, environment))
    page = to_markdown(
        experiment,
        outcome,
        environment,
        command=f"autockpt bench {file.name}",
        pictures=pictures,
    )
    write(folder / "results.md", page)
