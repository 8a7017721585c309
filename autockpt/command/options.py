"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from autockpt import zoo
from autockpt.hub.options import HubOptions

Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="file.py:function or package.module:function, a function that returns "
        "(model, args, kwargs) or (model, inputs); hf:PLACE with the config.json of a model of "
        "transformers or diffusers, its folder, or its name on the hub; or zoo:NAME with NAME one "
        f"of {', '.join(zoo.names())}.",
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
    typer.Option(
        help="A device that need not be here, such as h100, or a .toml file that describes one; "
        "for a zoo model also cpu, cuda, or meta to plan without memory."
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        help="The batch; 8 by default for hf:, else the target's own. A function is called with "
        "batch=N.",
        min=1,
        show_default=False,
    ),
]
Seq = Annotated[int | None, typer.Option(help="For hf: tokens of a sequence.", show_default=False)]
Dtype = Annotated[str, typer.Option(help="For hf: type of the parameters, fp32, bf16 or fp16.")]
Autocast = Annotated[
    str | None, typer.Option(help="For hf: type that autocast computes in, bf16 or fp16.")
]
Attention = Annotated[str, typer.Option(help="For hf: sdpa or eager.")]
Lora = Annotated[
    int | None, typer.Option(help="For hf: train adapters of this rank, and nothing else.")
]


def hub_options(
    seq: int | None,
    dtype: str,
    autocast: str | None,
    attention: str,
    lora: int | None,
) -> HubOptions:
    """Returns what was chosen for the model of a configuration; fails before it is built."""
    return HubOptions(
        seq=seq,
        dtype=dtype,
        autocast=autocast,
        attention=attention,
        lora=lora,
    )


Anew = Annotated[
    bool, typer.Option("--anew", help="Neither use nor keep plans on disk; solve again.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")]
