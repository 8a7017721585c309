"""A speech model of Hugging Face transformers."""

from __future__ import annotations

from typing import Any

import torch

from autockpt.zoo.example import Example, Size, library, tokens


def whisper(size: Size, batch: int | None = None) -> Example:
    """Whisper: convolutions, encoder, decoder; full: small (244M), 8 clips of 30 s, 128 tokens."""
    hf = library("transformers")
    if size == "small":
        batch, length = batch or 4, 64
        shape: dict[str, Any] = {
            "vocab_size": 1024,
            "d_model": 128,
            "encoder_layers": 4,
            "decoder_layers": 4,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 512,
            "decoder_ffn_dim": 512,
            "max_source_positions": 300,
            "max_target_positions": length,
            "decoder_start_token_id": 1,
            "pad_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
    else:
        batch, length = batch or 8, 128
        shape = {
            "d_model": 768,
            "encoder_layers": 12,
            "decoder_layers": 12,
            "encoder_attention_heads": 12,
            "decoder_attention_heads": 12,
            "encoder_ffn_dim": 3072,
            "decoder_ffn_dim": 3072,
        }
    config = hf.WhisperConfig(**shape, dropout=0.1, use_cache=False, attn_implementation="sdpa")
    # The encoder's second convolution halves the frames.
    frames = 2 * config.max_source_positions
    return Example(
        model=hf.WhisperForConditionalGeneration(config),
        kwargs={
            "input_features": torch.randn(batch, config.num_mel_bins, frames),
            "labels": tokens(config.vocab_size, batch, length),
        },
    )
