"""The options that commands share, in groups; nothing here imports torch."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from autockpt.command.grammar import checks
from autockpt.command.grammar.usage_error import TargetError
from autockpt.devices.lookup import device_names
from autockpt.hub.options import HubOptions
from autockpt.zoo.catalogue import NAMES

_MODEL, _SEARCH, _HUB, _OUTPUT = "Model", "Search", "Models of hf:", "Output"


class Size(StrEnum):
    """The sizes of zoo models."""

    SMALL = "small"
    FULL = "full"


def _beginning(known: Iterable[str], typed: str) -> list[str]:
    return [name for name in known if name.startswith(typed)]


def _targets(incomplete: str) -> list[str]:
    return _beginning((*(f"zoo:{name}" for name in NAMES), "hf:"), incomplete)


def _devices(incomplete: str) -> list[str]:
    return _beginning((*checks.HERE, *device_names()), incomplete)


def _methods(incomplete: str) -> list[str]:
    from autockpt_solvers import method_names

    return _beginning(method_names(), incomplete)


Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="file.py:function or package.module:function, a function that returns "
        "(model, args, kwargs) or (model, inputs); hf:PLACE with the config.json of a model of "
        "transformers or diffusers, its folder, or its name on the hub; or zoo:NAME with NAME one "
        f"of {', '.join(NAMES)}.",
        autocompletion=_targets,
        show_default=False,
    ),
]
Budget = Annotated[
    str,
    typer.Option(
        metavar="BUDGET",
        help='Memory of a training step: "8GB", "8GiB", "60%" of the eager peak, or on a device '
        '"auto", "80% of free" or "80% of device".',
        show_default=False,
    ),
]
Json = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the answer as JSON to this file; - for standard output, instead of the report.",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]

Html = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write a page to this file: one file of HTML that loads and sends nothing.",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a command shows beside its answer."""

    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show no progress.", rich_help_panel=_OUTPUT)
    ] = False
    show_traceback: Annotated[
        bool,
        typer.Option("--traceback", help="Show where an error came from.", rich_help_panel=_OUTPUT),
    ] = False


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How to search for a plan."""

    method: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help="The solver's method: a name, or file.py:function for one of your own.",
            rich_help_panel=_SEARCH,
            autocompletion=_methods,
        ),
    ] = "auto"
    time_limit: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Time limit of the search. Default: until the search has stalled, 60 s at most.",
            rich_help_panel=_SEARCH,
            show_default=False,
        ),
    ] = None

    def check(self) -> None:
        """Fails before anything is imported or built if the search cannot be made."""
        checks.check_time_limit(self.time_limit)
        checks.check_method(self.method)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How to build the model of a target and its loss, and which optimizer steps it."""

    loss: Annotated[
        str | None,
        typer.Option(
            metavar="LOSS",
            help="How to compute a loss from the output: sum, mean, or file.py:function.",
            rich_help_panel=_MODEL,
            show_default=False,
        ),
    ] = None
    optimizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The optimizer whose state counts: adamw (assumed by default), sgd, ...",
            rich_help_panel=_MODEL,
            show_default=False,
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="A device to plan for that need not be here, such as h100, or a .toml file that "
            "describes one; for a zoo model also cpu, cuda, or meta to plan without memory.",
            rich_help_panel=_MODEL,
            autocompletion=_devices,
            show_default=False,
        ),
    ] = None
    cost: Annotated[
        str | None,
        typer.Option(
            metavar="COST",
            help="What operations cost: file.py:function, or the name of an installed cost model. "
            "Default: autockpt measures or estimates.",
            rich_help_panel=_MODEL,
            show_default=False,
        ),
    ] = None
    size: Annotated[Size, typer.Option(help="Size of a zoo model.", rich_help_panel=_MODEL)] = (
        Size.SMALL
    )
    seq: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Tokens of a sequence.",
            rich_help_panel=_HUB,
            show_default=False,
        ),
    ] = None
    dtype: Annotated[
        str,
        typer.Option(
            metavar="TYPE", help="Type of the parameters: fp32, bf16, fp16.", rich_help_panel=_HUB
        ),
    ] = "fp32"
    autocast: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="Type that autocast computes in: bf16, fp16.",
            rich_help_panel=_HUB,
            show_default=False,
        ),
    ] = None
    attention: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="sdpa or eager; by default sdpa if the model has it.",
            rich_help_panel=_HUB,
            show_default=False,
        ),
    ] = None
    lora: Annotated[
        int | None,
        typer.Option(
            metavar="RANK",
            help="Train adapters of this rank, and nothing else.",
            rich_help_panel=_HUB,
            show_default=False,
        ),
    ] = None

    @property
    def hub(self) -> HubOptions:
        """What was chosen for the model of a configuration.

        Raises:
            ValueError: A choice is unknown.
        """
        return HubOptions(
            seq=self.seq,
            dtype=self.dtype,
            autocast=self.autocast,
            attention=self.attention,
            lora=self.lora,
        )

    @property
    def is_elsewhere(self) -> bool:
        """Whether the device is one that need not be here."""
        return self.device is not None and self.device.partition(":")[0] not in checks.HERE

    def check(self, target: str) -> None:
        """Fails before anything is imported or built if the model cannot be.

        Raises:
            TargetError: The target has no form that is known, or its file is not there.
            ValueError: The device or a choice for the hub is unknown.
        """
        if self.device is not None:
            checks.check_device(self.device)
        hub = self.hub
        checks.check_target(target)
        is_zoo, is_hub = target.startswith("zoo:"), target.startswith("hf:")
        if hub != HubOptions() and not is_hub:
            raise TargetError(
                "--seq, --dtype, --autocast, --attention and --lora are for hf:CONFIG; "
                f"{target} makes its own model: choose them there"
            )
        if self.size != Size.SMALL and is_hub:
            raise TargetError(f"--size is for zoo:NAME; the configuration gives {target} its size")
        is_here = self.device is not None and not self.is_elsewhere
        if is_hub and is_here and self.device != "meta":
            raise TargetError(
                f"{target} is built without weights, so it is planned and not run: give --device "
                "meta, or the name of a device such as h100"
            )
        if not is_zoo and not is_hub and (is_here or self.size != Size.SMALL):
            raise TargetError(
                f"--device and --size are for zoo:NAME; {target} makes its own model: choose them "
                "there"
            )
        if self.loss is not None:
            checks.check_loss(self.loss)
        if self.cost is not None:
            checks.check_cost(self.cost)

    def typed(self, target: str) -> str:
        """Returns the target and the options that differ from their defaults, to paste."""
        words = [target]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                words += [f"--{field.name}", str(value)]
        return shlex.join(words)

    @property
    def given(self) -> dict[str, Any]:
        """What `target.load` takes."""
        return {"size": self.size.value, "device": self.device, "options": self.hub}


@dataclass(frozen=True, kw_only=True)
class BatchedModelOptions(ModelOptions):
    """The same, with a batch of a chosen size."""

    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="The batch; 8 by default for hf:, else the target's own. A function is called "
            "with batch=N.",
            min=1,
            rich_help_panel=_MODEL,
            show_default=False,
        ),
    ] = None

    @property
    def given(self) -> dict[str, Any]:
        """What `target.load` takes."""
        return {**super().given, "batch": self.batch}
