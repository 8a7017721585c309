"""`autockpt graph`: the graph of a training step, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autockpt.command.grammar.options import BatchedModelOptions, Shown, Target
from autockpt.command.running.files import STANDARD_OUTPUT, check_writable, write
from autockpt.command.running.streams import say, tell
from autockpt.command.running.told import told

EXAMPLES = (
    "autockpt graph zoo:gpt2 -o gpt2.json",
    "autockpt graph my_models.py:small --loss mean -o small.json",
)


def graph(
    target: Target,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            "--json",
            metavar="FILE",
            help="The file to write; - for standard output.",
            show_default=False,
        ),
    ],
    model: BatchedModelOptions,
    shown: Shown,
) -> None:
    """Write the graph of a model's training step as JSON."""
    with told(shown, target):
        check_writable(output)
        model.check(target)

        import autockpt
        from autockpt.command.targets.target import load_step
        from autockpt.dispatch.kept import none_kept
        from autockpt_solvers import graph_to_json

        loaded = load_step(target, model)
        with none_kept():  # only the graph is of use
            made = autockpt.plan(
                loaded.model,
                "100%",
                **loaded.step,
                method="none",
                progress=not shown.quiet,
                device=loaded.device,
            )
        assert made.graph is not None
        write(output, graph_to_json(made.graph))
        fixed_bytes = made.fixed.total_bytes + made.older_gradients_bytes
        speak = tell if output == STANDARD_OUTPUT else say
        speak(
            f"{output}: {len(made.graph.ops)} ops, {len(made.graph.storages)} storages; "
            f"{fixed_bytes} fixed bytes beside them"
        )
