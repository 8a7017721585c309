"""Builds a model and a batch from a configuration, for planning: nothing of it has data."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch

from autockpt.hub.config import HubError, read_config
from autockpt.hub.diffusers_models import build_diffusers
from autockpt.hub.options import HubOptions
from autockpt.hub.transformers_models import build_transformers
from autockpt.zoo import Example
from autockpt.zoo.example import library


def build_from_hub(place: str, options: HubOptions) -> Example:
    """Builds the model that a configuration describes, with a batch and a loss.

    Args:
        place: A `config.json`, a folder with one, or a name on the hub. Weights are never loaded.
        options: Precision, sizes and adapters.

    Raises:
        HubError: The configuration cannot be read or built.
        ModuleNotFoundError: The library that the model comes from is not installed.
    """
    config = read_config(place)
    try:
        return build_from_config(config, options)
    except HubError as error:
        raise HubError(f"hf:{place}: {error}") from error


def build_from_config(config: dict[str, Any], options: HubOptions) -> Example:
    """Builds the model of a configuration; see `build_from_hub`."""
    if "_class_name" in config:
        example = build_diffusers(config, options)
    elif "model_type" in config:
        example = build_transformers(config, options)
    else:
        raise HubError(
            "the configuration has neither a model_type, as those of transformers, nor a "
            "_class_name, as those of diffusers"
        )
    if options.lora is not None:
        _add_lora(example.model, options.lora, options.torch_dtype)
    if options.autocast_dtype is not None:
        # Instead of a module around it, so that names stay as they are.
        model: Any = example.model
        model.forward = functools.partial(_under_autocast, model.forward, options.autocast_dtype)
    return example


def _add_lora(model: torch.nn.Module, rank: int, dtype: torch.dtype) -> None:
    """Freezes a model and adds trained adapters to its linear layers.

    Raises:
        HubError: It has no linear layers.
    """
    peft = library("peft")
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    with torch.device("meta"):
        try:
            with warnings.catch_warnings():
                # Of patterns for layers that this model does not have.
                warnings.filterwarnings("ignore", category=RuntimeWarning, module="peft")
                peft.inject_adapter_in_model(config, model)
        except Exception as error:
            raise HubError(f"lora: PEFT cannot adapt it: {error}") from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        # Adapters in another type than the model's would keep a cast copy of every input.
        parameter.data = parameter.data.to(dtype)


def _under_autocast(
    forward: Callable[..., Any], dtype: torch.dtype, *args: Any, **kwargs: Any
) -> Any:
    # Fakes are on the CPU, whatever the device that the plan is for.
    with torch.autocast("cpu", dtype):
        return forward(*args, **kwargs)
