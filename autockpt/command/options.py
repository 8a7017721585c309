"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from autockpt import zoo

Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="file.py:function or package.module:function, a function that returns "
        "(model, args, kwargs) or (model, inputs); or zoo:NAME with NAME one of "
        f"{', '.join(zoo.names())}.",
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(help="How to compute a loss from the output: sum, mean, or file.py:function."),
]
Optimizer = Annotated[
    str | None, typer.Option(help='Name of the optimizer to count: "adamw", "sgd", ...')
]


class Size(StrEnum):
    """The sizes of zoo models."""

    SMALL = "small"
    FULL = "full"


Budget = Annotated[
    str,
    typer.Option(
        help='Memory of a training step: bytes, "8GB", "8GiB", "60%" of the eager peak, or on a '
        'device "auto", "80% of free" or "80% of device".'
    ),
]
Method = Annotated[str, typer.Option(help="Name of the solver method.")]
TimeLimit = Annotated[float, typer.Option(help="Time limit of the search in seconds.")]
EarlyTimeLimit = Annotated[
    float | None,
    typer.Option(
        help="Time limit of the search in seconds. Default: until the search has stalled, 60 at "
        "most.",
        show_default=False,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="Device of a zoo model: cpu, cuda, or meta to plan without memory."),
]
Anew = Annotated[
    bool, typer.Option("--anew", help="Neither use nor keep plans on disk; solve again.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")]
