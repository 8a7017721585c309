"""Language models of Hugging Face transformers: forward returns an output with a `loss`."""

from __future__ import annotations

from typing import Any

import torch

from autockpt.zoo.example import Example, Size, library, tokens

_SMALL_VOCABULARY = 1024


def gpt2(size: Size, batch: int | None = None) -> Example:
    """GPT-2; full: 124M parameters, 8 sequences of 1024."""
    hf = library("transformers")
    if size == "small":
        batch, length = batch or 4, 256
        config = hf.GPT2Config(
            vocab_size=_SMALL_VOCABULARY,
            n_positions=length,
            n_embd=192,
            n_layer=12,
            n_head=6,
            bos_token_id=0,
            eos_token_id=0,
            use_cache=False,
            attn_implementation="sdpa",
        )
    else:
        batch, length = batch or 8, 1024
        config = hf.GPT2Config(use_cache=False, attn_implementation="sdpa")
    return _causal(hf.GPT2LMHeadModel(config), batch, length)


def llama(size: Size, batch: int | None = None) -> Example:
    """Llama; full: the 1B of Llama 3.2, 4 sequences of 2048."""
    hf = library("transformers")
    if size == "small":
        batch, length = batch or 4, 256
        shape: dict[str, Any] = {
            "vocab_size": _SMALL_VOCABULARY,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "max_position_embeddings": length,
        }
    else:
        batch, length = batch or 4, 2048
        shape = {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "tie_word_embeddings": True,
        }
    config = hf.LlamaConfig(**shape, use_cache=False, attn_implementation="sdpa")
    return _causal(hf.LlamaForCausalLM(config), batch, length)


def mamba(size: Size, batch: int | None = None) -> Example:
    """Mamba with its scan written out step by step; full: the 130M, 4 sequences of 128."""
    hf = library("transformers")
    if size == "small":
        batch, length = batch or 4, 32
        shape = {"vocab_size": _SMALL_VOCABULARY, "hidden_size": 128, "num_hidden_layers": 4}
    else:
        batch, length = batch or 4, 128
        shape = {"vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 24}
    # The associative scan is taken only while compiling, and gives other last bits than the loop.
    config = hf.MambaConfig(**shape, use_cache=False, use_associative_scan=False)
    return _causal(hf.MambaForCausalLM(config), batch, length)


def _causal(model: torch.nn.Module, batch: int, length: int) -> Example:
    ids = tokens(model.config.vocab_size, batch, length)  # type: ignore[union-attr, arg-type]
    # transformers finds no loss by the names of some classes, and logs that it takes this one.
    model.loss_type = "ForCausalLM"  # type: ignore[assignment]
    return Example(model=model, kwargs={"input_ids": ids, "labels": ids})


def bert_base(size: Size, batch: int | None = None) -> Example:
    """BERT with its masked-LM loss and dropout; full: base, 16 sequences of 512."""
    if size == "small":
        return _bert(batch=batch or 4, length=256, hidden=192, layers=12, heads=6, small=True)
    return _bert(batch=batch or 16, length=512, hidden=768, layers=12, heads=12)


def bert_large(size: Size, batch: int | None = None) -> Example:
    """BERT of 24 layers with its masked-LM loss and dropout; full: large, 8 sequences of 512."""
    if size == "small":
        return _bert(batch=batch or 4, length=128, hidden=128, layers=24, heads=4, small=True)
    return _bert(batch=batch or 8, length=512, hidden=1024, layers=24, heads=16)


def _bert(
    *, batch: int, length: int, hidden: int, layers: int, heads: int, small: bool = False
) -> Example:
    hf = library("transformers")
    config = hf.BertConfig(
        vocab_size=_SMALL_VOCABULARY if small else 30522,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=length,
        attn_implementation="sdpa",
    )
    ids = tokens(config.vocab_size, batch, length)
    # The loss is taken at the masked 15%, as in pretraining.
    masked = torch.rand(batch, length) < 0.15
    labels = torch.where(masked, ids, -100)
    return Example(
        model=hf.BertForMaskedLM(config),
        kwargs={"input_ids": torch.where(masked, 3, ids), "labels": labels},
    )


def t5(size: Size, batch: int | None = None) -> Example:
    """T5, encoder and decoder, with dropout; full: base, 8 pairs of 512 and 128."""
    hf = library("transformers")
    if size == "small":
        batch, source, target = batch or 4, 128, 64
        shape: dict[str, Any] = {
            "vocab_size": _SMALL_VOCABULARY,
            "d_model": 128,
            "d_kv": 32,
            "d_ff": 512,
            "num_layers": 6,
            "num_heads": 4,
        }
    else:
        batch, source, target = batch or 8, 512, 128
        shape = {
            "vocab_size": 32128,
            "d_model": 768,
            "d_kv": 64,
            "d_ff": 3072,
            "num_layers": 12,
            "num_heads": 12,
        }
    config = hf.T5Config(**shape, decoder_start_token_id=0, use_cache=False)
    return Example(
        model=hf.T5ForConditionalGeneration(config),
        kwargs={
            "input_ids": tokens(config.vocab_size, batch, source),
            "labels": tokens(config.vocab_size, batch, target),
        },
    )
