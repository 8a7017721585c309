"""A batch with labels for a model of transformers, by the arguments of its forward."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from autockpt.hub.config import HubError
from autockpt.hub.options import HubOptions

_USUAL_TOKENS = 2048
_USUAL_CHOICES = 4
_USUAL_SECONDS, _SAMPLES_PER_S = 10, 16_000


def check_tokens(config: Any, options: HubOptions) -> None:
    """Raises HubError if a model's configuration has no positions for so many tokens."""
    limits = _limits(config)
    if options.seq is not None and limits and options.seq > max(limits):
        raise _too_many(options.seq, max(limits))


def inputs_of(model: Any, config: Any, options: HubOptions) -> dict[str, Any]:
    """Returns a batch with labels.

    Args:
        model: The model, built.
        config: Its configuration.
        options: The batch and its sequences.

    Raises:
        HubError: Its forward takes no labels, or no such sequences.
    """
    takes = inspect.signature(model.forward).parameters
    inputs = _senses(takes, config, options)
    batch = options.batch
    if not {"input_ids", "decoder_input_ids"} & takes.keys():
        if options.seq is not None:
            raise HubError(f"seq is {options.seq}, and {type(model).__name__} reads no tokens")
        return {**inputs, **_labels(model, takes, inputs, (batch,), options)}
    tokens = _num_tokens(model, config, options, hears="input_features" in inputs)
    chooses = type(model).__name__.endswith("MultipleChoice")
    shape = (batch, _USUAL_CHOICES, tokens) if chooses else (batch, tokens)
    if "input_ids" in takes:
        inputs["input_ids"] = _ids(shape)
    return {**inputs, **_labels(model, takes, inputs, shape, options)}


def _senses(takes: Any, config: Any, options: HubOptions) -> dict[str, Any]:
    """Pictures or sound, if the model takes any."""
    batch = options.batch
    if "pixel_values" in takes:
        vision = getattr(config, "vision_config", config)
        side = getattr(vision, "image_size", None) or 224
        height, width = side if isinstance(side, (list, tuple)) else (side, side)
        channels = getattr(vision, "num_channels", 3)
        return {"pixel_values": _floats((batch, channels, height, width), options)}
    if "input_features" in takes and hasattr(config, "num_mel_bins"):
        frames = 2 * getattr(config, "max_source_positions", 1500)
        return {"input_features": _floats((batch, config.num_mel_bins, frames), options)}
    if "input_values" in takes:
        return {"input_values": _floats((batch, _USUAL_SECONDS * _SAMPLES_PER_S), options)}
    return {}


def _labels(
    model: Any, takes: Any, inputs: dict[str, Any], shape: tuple[int, ...], options: HubOptions
) -> dict[str, Any]:
    """What the model's loss compares with.

    Raises:
        HubError: Its forward takes none.
    """
    name, batch = type(model).__name__, options.batch
    if name.endswith("QuestionAnswering") and "start_positions" in takes:
        return {"start_positions": _ids((batch,)), "end_positions": _ids((batch,))}
    if "labels" not in takes:
        if "return_loss" in takes:
            return {"return_loss": True}
        raise HubError(
            f"the forward of {name} takes no labels, so has no loss: write a function that returns "
            "the model and its inputs, and give file.py:function with --loss"
        )
    if name.endswith("CTC"):
        raise HubError(
            f"{name} reads the values of its labels, and a batch without data has none: write a "
            "function that returns the model and its inputs, and give file.py:function"
        )
    of_sequence = ("Classification", "MultipleChoice", "NextSentencePrediction", "XVector")
    if name.endswith(of_sequence) and not name.endswith("TokenClassification"):
        return {"labels": _ids((batch,))}
    if name.endswith("Segmentation"):
        return {"labels": _ids((batch, *inputs["pixel_values"].shape[-2:]))}
    labels = {"labels": _ids(shape)}
    for more in ("next_sentence_label", "sentence_order_label"):
        if more in takes:
            labels[more] = _ids((batch,))
    return labels


def _num_tokens(model: Any, config: Any, options: HubOptions, *, hears: bool) -> int:
    """Tokens of a sequence.

    Args:
        model: The model.
        config: Its configuration.
        options: The sequences.
        hears: Whether the tokens are those of a decoder that follows sound.

    Raises:
        HubError: The model has no positions for so many.
    """
    limits = _limits(config)
    most = (limits[-1] if hears else limits[0]) if limits else None
    for path, module in model.named_modules():
        if not isinstance(module, torch.nn.Embedding) or module.padding_idx is None:
            continue
        # Models after RoBERTa count positions from the one that pads.
        if path.endswith("position_embeddings") and module.num_embeddings == most:
            most -= module.padding_idx + 1
    if options.seq is None:
        return min(_USUAL_TOKENS, most or 512)
    if most is not None and options.seq > most:
        raise _too_many(options.seq, most)
    return options.seq


def _limits(config: Any) -> list[int]:
    text = config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_target_positions")
    return [value for name in names if (value := getattr(text, name, None))]


def _too_many(seq: int, most: int) -> HubError:
    return HubError(f"seq is {seq}, and the model has positions for {most} tokens")


def _ids(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.long)


def _floats(shape: tuple[int, ...], options: HubOptions) -> torch.Tensor:
    return torch.zeros(shape, dtype=options.torch_dtype)
