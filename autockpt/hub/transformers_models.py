"""Builds a model of transformers on the meta device, with a head, a loss and a batch."""

from __future__ import annotations

from typing import Any

import torch

from autockpt.hub.config import HubError, reason_of
from autockpt.hub.heads import auto_class
from autockpt.hub.options import HubOptions
from autockpt.hub.transformers_inputs import check_tokens, inputs_of
from autockpt.zoo import Example
from autockpt.zoo.example import library

# What must be at least 1 in any part of a configuration, by the names that parts share.
_COUNTS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("vocab_size", "max_position_embeddings", "num_channels", "patch_size"),
)


def build_transformers(config: dict[str, Any], options: HubOptions) -> Example:
    """Builds the model that a configuration describes, and a batch for it; neither has data.

    Raises:
        HubError: transformers knows no such model, it has no head whose loss is known, or the
            options do not go with it.
        ModuleNotFoundError: transformers is not installed.
    """
    transformers = library("transformers")
    parsed = _parsed(transformers, config)
    check_tokens(parsed, options)
    auto, notes = auto_class(transformers, parsed, config.get("architectures"))
    quantized = config.get("quantization_config")
    if quantized:
        how = quantized.get("quant_method", "") if isinstance(quantized, dict) else quantized
        notes += (f"Weights are of {options.dtype}, not quantized ({how}).",)
    with torch.device("meta"):
        try:
            model = auto.from_config(
                parsed, attn_implementation=options.attention, dtype=options.torch_dtype
            )
        except Exception as error:
            raise HubError(f"transformers cannot build it: {reason_of(error)}") from error
        inputs = inputs_of(model, parsed, options)
    # transformers reads its own choice from here too.
    chosen = getattr(model.config, "_attn_implementation", None)
    has_attention = hasattr(parsed.get_text_config(), "num_attention_heads")
    if options.attention is None and chosen == "eager" and has_attention:
        notes += (
            f"{type(model).__name__} does not use scaled_dot_product_attention: its attention is "
            "made of matrix products.",
        )
    model.train()
    return Example(model=model, kwargs=inputs, notes=notes)


def _parsed(transformers: Any, config: dict[str, Any]) -> Any:
    """The configuration as transformers reads it, set for training.

    Raises:
        HubError: transformers cannot read it, or its numbers make no sense.
    """
    values = dict(config)
    kind = values.pop("model_type", None)
    values.pop("quantization_config", None)
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    if not isinstance(kind, str) or kind not in known:
        raise HubError(f"transformers {transformers.__version__} has no model of type {kind!r}")
    try:
        parsed = transformers.AutoConfig.for_model(kind, **values)
        parts = [parsed, parsed.get_text_config()]
    except Exception as error:
        raise HubError(f"transformers cannot read it: {reason_of(error)}") from error
    parts += [getattr(parsed, name, None) for name in ("vision_config", "audio_config")]
    for part in parts:
        for name in _COUNTS:
            value = getattr(part, name, 1)
            if isinstance(value, int) and value < 1:
                raise HubError(f"{name} is {value}; it must be 1 or more")
    for part in parts[:2]:
        if hasattr(part, "use_cache"):
            part.use_cache = False  # training loops turn it off
    is_pair = getattr(parsed, "is_encoder_decoder", False)
    if is_pair and getattr(parsed, "decoder_start_token_id", None) is None:
        # Configurations leave to generation what the decoder's inputs begin with.
        parsed.decoder_start_token_id = 0
    is_classifier = "SequenceClassification" in str(config.get("architectures"))
    if (is_pair or is_classifier) and getattr(parsed, "pad_token_id", None) is None:
        parsed.pad_token_id = 0  # classifiers look for the last token that is another
    return parsed
