"""Builds a model of transformers on the meta device, with a head, a loss and a batch."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from autockpt.hub.config import HubError
from autockpt.hub.options import HubOptions
from autockpt.zoo import Example
from autockpt.zoo.example import library

# In the order in which they are tried for a model whose configuration names no head.
_HEADS = (
    *("CausalLM", "Seq2SeqLM", "MaskedLM", "SpeechSeq2Seq", "CTC", "ImageClassification"),
    *("SequenceClassification", "AudioClassification", "SemanticSegmentation"),
    *("VideoClassification", "ImageTextToText", "PreTraining"),
)
_USUAL_TOKENS = 2048
_USUAL_SECONDS, _SAMPLES_PER_S = 10, 16_000


def build_transformers(config: dict[str, Any], options: HubOptions) -> Example:
    """Builds the model that a configuration describes, and a batch for it; neither has data.

    Raises:
        HubError: transformers knows no such model, or it has no head whose loss is known.
        ModuleNotFoundError: transformers is not installed.
    """
    transformers = library("transformers")
    values = dict(config)
    kind = values.pop("model_type", None)
    architectures = values.get("architectures") or ()
    try:
        parsed = transformers.AutoConfig.for_model(kind, **values)
    except (ValueError, TypeError, AttributeError) as error:
        raise HubError(
            f"transformers {transformers.__version__} has no model of type {kind!r}: {error}"
        ) from error
    for part in (parsed, parsed.get_text_config()):
        if hasattr(part, "use_cache"):
            part.use_cache = False  # training loops turn it off
    if getattr(parsed, "is_encoder_decoder", False):
        # Configurations leave to generation what the decoder's inputs begin with.
        if getattr(parsed, "decoder_start_token_id", None) is None:
            parsed.decoder_start_token_id = 0
        if getattr(parsed, "pad_token_id", None) is None:
            parsed.pad_token_id = 0
    auto = _auto_class(transformers, parsed, tuple(architectures))
    with torch.device("meta"):
        try:
            model = auto.from_config(
                parsed, attn_implementation=options.attention, dtype=options.torch_dtype
            )
        except ValueError as error:
            raise HubError(f"transformers cannot build this model: {error}") from error
        inputs = _inputs(model, parsed, options)
    model.train()
    return Example(model=model, kwargs=inputs)


def _auto_class(transformers: Any, config: Any, architectures: tuple[str, ...]) -> Any:
    """The class that builds the model with the head that its configuration names."""
    known = {}
    for head in _HEADS:
        auto = getattr(transformers, f"AutoModelFor{head}", None)
        classes = None if auto is None else _classes(auto, config)
        if not classes:
            continue
        known[head] = auto
        if any(getattr(c, "__name__", "") in architectures for c in classes):
            return auto
    if not known:
        raise HubError(f"no head of {type(config).__name__} has a loss that autockpt knows")
    return next(iter(known.values()))


def _classes(auto: Any, config: Any) -> tuple[Any, ...]:
    mapping = vars(auto)["_model_mapping"]
    if type(config) not in mapping:
        return ()
    found = mapping[type(config)]
    return tuple(found) if isinstance(found, (list, tuple)) else (found,)


def _inputs(model: Any, config: Any, options: HubOptions) -> dict[str, Any]:
    """A batch with labels, by the arguments of the model's forward."""
    takes = inspect.signature(model.forward).parameters
    batch = options.batch
    inputs: dict[str, Any] = {}
    if "pixel_values" in takes:
        vision = getattr(config, "vision_config", config)
        side = getattr(vision, "image_size", None) or 224
        height, width = side if isinstance(side, (list, tuple)) else (side, side)
        channels = getattr(vision, "num_channels", 3)
        inputs["pixel_values"] = _floats((batch, channels, height, width), options)
    elif "input_features" in takes:
        frames = 2 * getattr(config, "max_source_positions", 1500)
        inputs["input_features"] = _floats((batch, config.num_mel_bins, frames), options)
    elif "input_values" in takes:
        inputs["input_values"] = _floats((batch, _USUAL_SECONDS * _SAMPLES_PER_S), options)
    has_tokens = "input_ids" in takes
    tokens = _num_tokens(config, options, is_decoder_only_part="input_features" in inputs)
    if has_tokens:
        inputs["input_ids"] = _ids((batch, tokens))
    if "labels" not in takes:
        if "return_loss" in takes:
            return {**inputs, "return_loss": True}
        raise HubError(f"the forward of {type(model).__name__} takes no labels, so has no loss")
    name = type(model).__name__
    per_sequence = "Classification" in name and "Token" not in name
    if per_sequence:
        inputs["labels"] = _ids((batch,))
    elif "SemanticSegmentation" in name or "UniversalSegmentation" in name:
        inputs["labels"] = _ids((batch, *inputs["pixel_values"].shape[-2:]))
    else:
        inputs["labels"] = _ids((batch, tokens))
    return inputs


def _num_tokens(config: Any, options: HubOptions, *, is_decoder_only_part: bool) -> int:
    """Tokens of a sequence.

    Raises:
        HubError: The model has no positions for so many.
    """
    text = config.get_text_config()
    names = ["max_position_embeddings", "n_positions", "max_target_positions"]
    if is_decoder_only_part:
        names = names[::-1]
    limits = [value for name in names if (value := getattr(text, name, None))]
    most = limits[0] if limits else None
    if options.seq is None:
        return min(_USUAL_TOKENS, most or 512)
    if most is not None and options.seq > most:
        raise HubError(f"seq is {options.seq}, and the model has positions for {most} tokens")
    return options.seq


def _ids(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.long)


def _floats(shape: tuple[int, ...], options: HubOptions) -> torch.Tensor:
    return torch.zeros(shape, dtype=options.torch_dtype)
