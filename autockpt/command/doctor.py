"""`autockpt doctor`: what is installed here, what works, and what is kept."""

from __future__ import annotations

import json as json_module

import typer

from autockpt.command.grammar.options import Json, Shown
from autockpt.command.running import exits
from autockpt.command.running.files import STANDARD_OUTPUT, check_writable, write
from autockpt.command.running.streams import show
from autockpt.command.running.told import status, told

EXAMPLES = ("autockpt doctor", "autockpt doctor --json -")


def doctor(shown: Shown, json: Json = None) -> None:
    """Show versions, devices, what works here, what is kept and which extras are installed.

    It plans and runs a small model. The exit code is 1 if something that autockpt needs fails.
    """
    with told(shown):
        check_writable(json)

        from autockpt.command.cache import kept
        from autockpt.command.tasks.examination import examine, render

        with status(is_shown=json != STANDARD_OUTPUT) as stage:
            found = examine(stage)
        if json is not None:
            write(json, json_module.dumps(found.values() | {"cache": kept()}, indent=1) + "\n")
        if json != STANDARD_OUTPUT:
            show(render(found, kept()))
        if not found.is_well:
            raise typer.Exit(exits.BUG)
