"""`autockpt fit`: whether a training step fits a device, on one screen."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autockpt.command.grammar.checks import HERE, checked_budget
from autockpt.command.grammar.options import BatchedModelOptions, Json, Shown, Target
from autockpt.command.grammar.usage_error import TargetError
from autockpt.command.running import exits
from autockpt.command.running.files import STANDARD_OUTPUT, check_writable, write
from autockpt.command.running.streams import show, width
from autockpt.command.running.told import told
from autockpt.devices.device import Device
from autockpt.devices.lookup import device_names, find_device
from autockpt.devices.usable import budget_of

if TYPE_CHECKING:
    from autockpt.fitting.answer import Fit
    from autockpt.fitting.value import Variant
    from autockpt.zoo import Example

EXAMPLES = (
    "autockpt fit hf:llama-7b/config.json --device h100 --batch 8 --seq 2048 --dtype bf16",
    "autockpt fit zoo:bert-large --size full --devices all",
)
_LORA_RANK = 16
_DEVICES_HELP = (
    'Several devices instead of --device, as a table: "h100,a100-80", or "all" of '
    f"{', '.join(device_names())}."
)


def fit(
    target: Target,
    model: BatchedModelOptions,
    shown: Shown,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help=_DEVICES_HELP,
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="BUDGET",
            help='What a step may use: "60GB", "auto", "80% of device"; by default the device\'s '
            "memory without its context.",
            show_default=False,
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Predict whether a training step fits a device, what it costs there and what would help."""
    with told(shown, target):
        names = _names(model.device, devices)
        check_writable(json)
        wanted = _budgets(budget, names)
        of_device = dataclasses.replace(model, device=names[0])
        of_device.check(target)

        import autockpt
        from autockpt.command.targets.target import load_step, noted, takes_batch

        loaded = load_step(target, of_device)
        gc.freeze()  # what is imported and built stays: collections need not look through it
        is_alone = len(names) == 1

        def make_inputs(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
            made = load_step(target, of_device, batch=batch).example
            return made.args, dict(made.kwargs)

        answers = [
            noted(
                autockpt.fit(
                    loaded.model,
                    name,
                    budget=of_it,
                    **loaded.step,
                    make_inputs=make_inputs if is_alone and takes_batch(target) else None,
                    variants=_variants(target, of_device, find_device(name)) if is_alone else None,
                    progress=not shown.quiet,
                ),
                loaded,
            )
            for name, of_it in zip(names, wanted, strict=True)
        ]
        _show(answers, json)
        if not any(answer.fits for answer in answers):
            raise typer.Exit(exits.DOES_NOT_FIT)


def _names(device: str | None, devices: str | None) -> list[str]:
    """The devices that are asked for; all are known."""
    if (device is None) == (devices is None):
        raise TargetError("give one of --device and --devices, such as --device h100")
    if devices is None:
        names = [device or ""]
    elif devices == "all":
        names = list(device_names())
    else:
        names = [name.strip() for name in devices.split(",")]
    for name in names:
        if name.partition(":")[0] in HERE:
            raise TargetError(
                f"{name} is no device to fit: name one with a memory of its own that need not be "
                f"here, such as {', '.join(device_names()[:5])}, or a .toml file that describes one"
            )
        find_device(name)
    return names


def _budgets(budget: str | None, names: list[str]) -> list[int | None]:
    """The budget on each device; in a table, a device that has less counts with all that it has.

    Raises:
        ValueError: It is no budget, a share of the eager peak, or more than the one device has.
    """
    if budget is None:
        return [None] * len(names)
    asked = checked_budget(budget)
    found: list[int | None] = []
    for device in map(find_device, names):
        most = device.usable_bytes
        is_too_much = len(names) > 1 and asked.bytes is not None and asked.bytes > most
        found.append(most if is_too_much else budget_of(asked, device))
    return found


def _variants(
    target: str, options: BatchedModelOptions, device: Device
) -> dict[str, Callable[[], Variant]] | None:
    """The same model in other precisions, or with adapters."""
    if not target.startswith("hf:"):
        return None
    from autockpt.command.targets.target import load_step
    from autockpt.hub.config import HubError

    def of(**changes: Any) -> Callable[[], Variant]:
        changed = dataclasses.replace(options, **changes)

        def make() -> Variant:
            try:
                return _variant(load_step(target, changed).to_run())
            except HubError as error:
                raise HubError(str(error).removeprefix(f"{target}: ")) from error

        return make

    found = {}
    if options.hub.dtype == "fp32" and options.autocast is None:
        half = "fp16" if device.rates.bf16 is None else "bf16"
        found[f"autocast to {half}"] = of(autocast=half)
        found[f"{half} throughout"] = of(dtype=half)
    if options.attention == "eager":
        found["scaled_dot_product_attention"] = of(attention="sdpa")
    if options.lora is None:
        found[f"LoRA of rank {_LORA_RANK}"] = of(lora=_LORA_RANK)
    return found


def _variant(example: Example) -> Variant:
    from autockpt.fitting.value import Variant

    return Variant(
        model=example.model, args=example.args, kwargs=example.kwargs, loss_fn=example.loss_fn
    )


def _show(answers: list[Fit], json: Path | None) -> None:
    from autockpt.fitting.text import render, render_table

    if json is not None:
        parts = [answer.to_json().rstrip() for answer in answers]
        content = parts[0] if len(parts) == 1 else "[" + ",".join(parts) + "]"
        write(json, content + "\n")
        if json == STANDARD_OUTPUT:
            return
    is_alone = len(answers) == 1
    show(render(answers[0], width=width()) if is_alone else render_table(answers))
