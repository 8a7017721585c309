"""The models that peers are compared on: small configurations of transformers with random weights.

A step takes a fraction of a second on one core, and activations are larger than parameters, as they
are in the training that people run out of memory with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from autockpt.zoo.example import Example, library, tokens

_WIDTH, _HEADS, _LAYERS, _VOCABULARY = 128, 4, 6, 512
_BATCH, _LENGTH = 4, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerModel:
    """A model to compare on.

    Attributes:
        title: Its name on the page.
        layers: Path of the list of layers that run one after another, each from one tensor to one;
            empty if there is none.
        build: Makes the model and a batch.
    """

    title: str
    layers: str
    build: Callable[[], Example]


def built(model: PeerModel, *, seed: int = 0) -> Example:
    """Return a model with random weights in training mode, and a batch; the same for each seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        example = model.build()
    example.model.train()
    return example


def _shape(**names: Any) -> dict[str, Any]:
    return {"vocab_size": _VOCABULARY, "attn_implementation": "sdpa", **names}


def _of_text(model: Any, *, has_cache: bool = True) -> Example:
    ids = tokens(_VOCABULARY, _BATCH, _LENGTH)
    kwargs: dict[str, Any] = {"input_ids": ids, "labels": ids}
    if has_cache:
        kwargs["use_cache"] = False
    return Example(model=model, kwargs=kwargs)


def _gpt2() -> Example:
    hf = library("transformers")
    config = hf.GPT2Config(
        **_shape(n_positions=_LENGTH, n_embd=_WIDTH, n_layer=_LAYERS, n_head=_HEADS),
        bos_token_id=0,
        eos_token_id=0,
        loss_type="ForCausalLM",
    )
    return _of_text(hf.GPT2LMHeadModel(config))


def _opt() -> Example:
    hf = library("transformers")
    config = hf.OPTConfig(
        **_shape(
            hidden_size=_WIDTH,
            ffn_dim=4 * _WIDTH,
            num_hidden_layers=10,
            num_attention_heads=_HEADS,
            max_position_embeddings=_LENGTH,
            word_embed_proj_dim=_WIDTH,
        )
    )
    return _of_text(hf.OPTForCausalLM(config))


def _bert() -> Example:
    hf = library("transformers")
    config = hf.BertConfig(
        **_shape(
            hidden_size=_WIDTH,
            intermediate_size=4 * _WIDTH,
            num_hidden_layers=_LAYERS,
            num_attention_heads=_HEADS,
            max_position_embeddings=_LENGTH,
        )
    )
    return _of_text(hf.BertForMaskedLM(config), has_cache=False)


def _llama() -> Example:
    hf = library("transformers")
    config = hf.LlamaConfig(
        **_shape(
            hidden_size=_WIDTH,
            intermediate_size=3 * _WIDTH,
            num_hidden_layers=_LAYERS,
            num_attention_heads=_HEADS,
            num_key_value_heads=_HEADS // 2,
            max_position_embeddings=_LENGTH,
        )
    )
    return _of_text(hf.LlamaForCausalLM(config))


def _gpt_neox() -> Example:
    hf = library("transformers")
    config = hf.GPTNeoXConfig(
        **_shape(
            hidden_size=_WIDTH,
            intermediate_size=4 * _WIDTH,
            num_hidden_layers=_LAYERS,
            num_attention_heads=_HEADS,
            max_position_embeddings=_LENGTH,
            hidden_dropout=0.1,
        )
    )
    return _of_text(hf.GPTNeoXForCausalLM(config))


def _t5() -> Example:
    hf = library("transformers")
    config = hf.T5Config(
        vocab_size=_VOCABULARY,
        d_model=_WIDTH,
        d_kv=_WIDTH // _HEADS,
        d_ff=4 * _WIDTH,
        num_layers=_LAYERS // 2,
        num_heads=_HEADS,
        decoder_start_token_id=0,
    )
    return _of_text(hf.T5ForConditionalGeneration(config))


def _vit() -> Example:
    hf = library("transformers")
    config = hf.ViTConfig(
        hidden_size=_WIDTH,
        intermediate_size=4 * _WIDTH,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        image_size=64,
        patch_size=8,
        hidden_dropout_prob=0.1,
        attn_implementation="sdpa",
    )
    return _of_images(hf.ViTForImageClassification(config), size=64, batch=8)


def _resnet() -> Example:
    hf = library("transformers")
    config = hf.ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64, 128, 256], depths=[2, 2, 2, 2], num_labels=10
    )
    return _of_images(hf.ResNetForImageClassification(config), size=64, batch=8)


def _of_images(model: torch.nn.Module, *, size: int, batch: int) -> Example:
    pixels = torch.randn(batch, 3, size, size)
    labels = torch.randint(0, 2, (batch,))
    return Example(model=model, kwargs={"pixel_values": pixels, "labels": labels})


PEER_MODELS = {
    "gpt2": PeerModel(title="GPT-2", layers="transformer.h", build=_gpt2),
    "opt": PeerModel(title="OPT", layers="model.decoder.layers", build=_opt),
    "bert": PeerModel(title="BERT", layers="bert.encoder.layer", build=_bert),
    "llama": PeerModel(title="Llama", layers="model.layers", build=_llama),
    "gpt-neox": PeerModel(title="GPT-NeoX", layers="gpt_neox.layers", build=_gpt_neox),
    "vit": PeerModel(title="ViT", layers="vit.layers", build=_vit),
    "t5": PeerModel(title="T5", layers="", build=_t5),
    "resnet": PeerModel(title="ResNet", layers="resnet.encoder.stages", build=_resnet),
}
