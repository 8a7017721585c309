"""Builds a denoising model of diffusers on the meta device, with a loss and a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from autockpt.hub.config import HubError, reason_of
from autockpt.hub.options import HubOptions
from autockpt.zoo import Example
from autockpt.zoo.example import library

_PROMPT_TOKENS = 77
_LONG_PROMPT_TOKENS = 512
_TIME_IDS = 6  # original size, crop and target size


def build_diffusers(config: dict[str, Any], options: HubOptions) -> Example:
    """Builds the model that a configuration describes, and a batch for it; neither has data.

    The loss is the mean squared error of what the model predicts.

    Raises:
        HubError: It is of a class whose inputs autockpt does not know.
        ModuleNotFoundError: diffusers is not installed.
    """
    diffusers = library("diffusers")
    name = config["_class_name"]
    make = _INPUTS.get(name) if isinstance(name, str) else None
    if make is None or not hasattr(diffusers, name):
        raise HubError(
            f"the inputs of diffusers' {name} are not known; known are {', '.join(_INPUTS)}, and a "
            "function of your own may build any model: file.py:function"
        )
    if options.seq is not None and name not in _READING:
        raise HubError(f"seq is {options.seq}, and {name} reads no tokens")
    with torch.device("meta"), _quiet(diffusers):
        try:
            model = getattr(diffusers, name).from_config(config).to(options.torch_dtype)
            inputs = make(model.config, options)
        except HubError:
            raise
        except Exception as error:
            raise HubError(f"diffusers cannot build it: {reason_of(error)}") from error
    model.train()
    return Example(model=model, kwargs=inputs, loss_fn=_loss)


@contextlib.contextmanager
def _quiet(diffusers: Any) -> Iterator[None]:
    """Lets diffusers report nothing but errors."""
    logging = diffusers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _loss(output: Any) -> torch.Tensor:
    predicted: torch.Tensor = output.sample
    return torch.nn.functional.mse_loss(predicted.float(), torch.zeros_like(predicted).float())


def _sample(config: Any, options: HubOptions) -> torch.Tensor:
    side = config.sample_size or 64
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    return torch.zeros(options.batch, config.in_channels, height, width, dtype=options.torch_dtype)


def _times(options: HubOptions) -> torch.Tensor:
    return torch.zeros(options.batch, dtype=torch.long)


def _prompt(features: int, options: HubOptions, tokens: int = _PROMPT_TOKENS) -> torch.Tensor:
    return torch.zeros(options.batch, options.seq or tokens, features, dtype=options.torch_dtype)


def _vectors(features: int, options: HubOptions) -> torch.Tensor:
    return torch.zeros(options.batch, features, dtype=options.torch_dtype)


def _unconditional(config: Any, options: HubOptions) -> dict[str, Any]:
    inputs = {"sample": _sample(config, options), "timestep": _times(options)}
    kind = config.class_embed_type
    if kind == "timestep" or (kind is None and config.num_class_embeds):
        inputs["class_labels"] = _times(options)
    elif kind in ("projection", "simple_projection"):
        features = config.projection_class_embeddings_input_dim
        inputs["class_labels"] = _vectors(features, options)
    elif kind is not None:
        raise HubError(
            f"class_embed_type is {kind!r}, and autockpt makes no batch for it: write a function "
            "that returns the model and its inputs, and give file.py:function"
        )
    return inputs


def _conditional(config: Any, options: HubOptions) -> dict[str, Any]:
    features = config.encoder_hid_dim or config.cross_attention_dim
    features = max(features) if isinstance(features, (list, tuple)) else features
    projection, addition = config.encoder_hid_dim_type, config.addition_embed_type
    if projection not in (None, "text_proj") or addition not in (None, "text", "text_time"):
        raise HubError(
            f"it is conditioned on {projection or addition}, and autockpt makes no batch for that: "
            "write a function that returns the model and its inputs, and give file.py:function"
        )
    inputs = {
        **_unconditional(config, options),
        "encoder_hidden_states": _prompt(features, options),
    }
    if config.addition_embed_type == "text_time":
        of_times = _TIME_IDS * config.addition_time_embed_dim
        pooled = config.projection_class_embeddings_input_dim - of_times
        inputs["added_cond_kwargs"] = {
            "text_embeds": _vectors(pooled, options),
            "time_ids": _vectors(_TIME_IDS, options),
        }
    return inputs


def _autoencoder(config: Any, options: HubOptions) -> dict[str, Any]:
    return {"sample": _sample(config, options)}


def _stable_diffusion_3(config: Any, options: HubOptions) -> dict[str, Any]:
    return {
        "hidden_states": _sample(config, options),
        "encoder_hidden_states": _prompt(config.joint_attention_dim, options),
        "pooled_projections": _vectors(config.pooled_projection_dim, options),
        "timestep": _times(options),
    }


def _flux(config: Any, options: HubOptions) -> dict[str, Any]:
    patches = 64 * 64  # a picture of 1024 by 1024
    prompt = _prompt(config.joint_attention_dim, options, _LONG_PROMPT_TOKENS)
    inputs = {
        "hidden_states": torch.zeros(
            options.batch, patches, config.in_channels, dtype=options.torch_dtype
        ),
        "encoder_hidden_states": prompt,
        "pooled_projections": _vectors(config.pooled_projection_dim, options),
        "timestep": torch.zeros(options.batch, dtype=options.torch_dtype),
        "img_ids": torch.zeros(patches, 3),
        "txt_ids": torch.zeros(prompt.size(1), 3),
    }
    if config.guidance_embeds:
        inputs["guidance"] = torch.zeros(options.batch)
    return inputs


def _classes(config: Any, options: HubOptions) -> dict[str, Any]:
    return {
        "hidden_states": _sample(config, options),
        "timestep": _times(options),
        "class_labels": _times(options),
    }


# The models that read a prompt.
_READING = ("UNet2DConditionModel", "SD3Transformer2DModel", "FluxTransformer2DModel")
_INPUTS: dict[str, Callable[[Any, HubOptions], dict[str, Any]]] = {
    "UNet2DModel": _unconditional,
    "UNet2DConditionModel": _conditional,
    "AutoencoderKL": _autoencoder,
    "SD3Transformer2DModel": _stable_diffusion_3,
    "FluxTransformer2DModel": _flux,
    "DiTTransformer2DModel": _classes,
}
