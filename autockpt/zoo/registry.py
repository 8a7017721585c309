"""Builds a model of the zoo by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch

from autockpt.zoo import handmade, speech, text, vision
from autockpt.zoo.example import Example, Size

_BUILDERS: dict[str, Callable[[Size, int | None], Example]] = {
    "gpt2": text.gpt2,
    "bert-base": text.bert_base,
    "bert-large": text.bert_large,
    "llama": text.llama,
    "t5": text.t5,
    "mamba": text.mamba,
    "vit": vision.vit,
    "resnet50": vision.resnet50,
    "convnext": vision.convnext,
    "unet": vision.unet,
    "whisper": speech.whisper,
    "sequential": handmade.sequential,
    "control-flow": handmade.control_flow,
}


def build(
    name: str,
    size: Size = "small",
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    batch: int | None = None,
) -> Example:
    """Builds a model with random weights, in training mode, and a batch for it.

    The global random state does not change.

    Args:
        name: One of `names()`.
        size: `"small"` takes about a second a step on a CPU, and its activations are larger than
            its parameters; `"full"` is a published configuration with a usual batch.
        device: The device of weights and batch; `"meta"` needs no memory, and can only be planned.
        seed: The seed for weights and batch.
        batch: The batch size; None for the usual one of that size.

    Raises:
        ValueError: If the name or the size is unknown, or the batch size is below 1.
        ModuleNotFoundError: If the library that the model comes from is not installed.
    """
    if name not in _BUILDERS:
        raise ValueError(f"unknown model {name!r}; the zoo has {', '.join(_BUILDERS)}")
    if size not in get_args(Size):
        raise ValueError(f"unknown size {size!r}; sizes are {', '.join(get_args(Size))}")
    if batch is not None and batch < 1:
        raise ValueError(f"batch is {batch}; it must be 1 or more")
    device = torch.device(device)
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked), device:
        torch.manual_seed(seed)
        example = _BUILDERS[name](size, batch)
    example.model.train()
    return example
