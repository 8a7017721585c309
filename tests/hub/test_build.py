"""Models are built from configurations, without weights, with a head, a loss and a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import autockpt
from autockpt.hub.build import build_from_config, build_from_hub
from autockpt.hub.config import HubError
from autockpt.hub.options import HubOptions
from autockpt.zoo import Example

_TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
LLAMA = {**_TEXT, "model_type": "llama", "intermediate_size": 64, "max_position_embeddings": 128}
_CONFIGS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": LLAMA,
    "BertForMaskedLM": {
        **_TEXT,
        "model_type": "bert",
        "intermediate_size": 64,
        "architectures": ["BertForMaskedLM"],
    },
    "BertForSequenceClassification": {
        **_TEXT,
        "model_type": "bert",
        "intermediate_size": 64,
        "architectures": ["BertForSequenceClassification"],
    },
    "ViTForImageClassification": {
        **_TEXT,
        "model_type": "vit",
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
    },
    "WhisperForConditionalGeneration": {
        "model_type": "whisper",
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_source_positions": 20,
        "max_target_positions": 16,
        "architectures": ["WhisperForConditionalGeneration"],
    },
    "T5ForConditionalGeneration": {
        "model_type": "t5",
        "d_model": 32,
        "d_ff": 64,
        "d_kv": 16,
        "num_layers": 1,
        "num_heads": 2,
        "vocab_size": 64,
    },
}


@pytest.mark.parametrize("name", _CONFIGS)
def test_heads_losses_and_batches(name: str) -> None:
    seq = None if "Image" in name else 8
    example = build_from_config(_CONFIGS[name], HubOptions(batch=3, seq=seq, dtype="bf16"))
    assert type(example.model).__name__ == name
    assert example.model.training
    assert {p.device.type for p in example.model.parameters()} == {"meta"}
    assert {p.dtype for p in example.model.parameters()} == {torch.bfloat16}
    assert all(t.size(0) == 3 for t in example.kwargs.values())
    plan = _planned(example)
    assert plan.graph is not None
    assert any(op.is_backward for op in plan.graph.ops)


def _planned(example: Example) -> autockpt.Plan:
    return autockpt.plan(
        example.model,
        "100%",
        sample_kwargs=dict(example.kwargs),
        loss_fn=example.loss_fn,
        method="none",
        device="h100",
    )


def test_denoising_models_of_diffusers() -> None:
    config = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 8,
        "block_out_channels": [32, 64],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "cross_attention_dim": 16,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 40,
    }
    example = build_from_config(config, HubOptions(batch=2))
    assert example.kwargs["added_cond_kwargs"]["text_embeds"].shape == (2, 16)
    assert _planned(example).num_graphs == 1
    with pytest.raises(HubError, match="the inputs of diffusers' Kandinsky are not known"):
        build_from_config({"_class_name": "Kandinsky"}, HubOptions())


def test_adapters_are_all_that_is_trained() -> None:
    plain = build_from_config(LLAMA, HubOptions(batch=1, seq=8))
    adapted = build_from_config(LLAMA, HubOptions(batch=1, seq=8, lora=4, dtype="bf16"))
    trained = [n for n, p in adapted.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert {p.dtype for p in adapted.model.parameters()} == {torch.bfloat16}
    assert all(p.requires_grad for p in plain.model.parameters())


def test_autocast_and_attention_are_as_chosen() -> None:
    plans = [
        _planned(build_from_config(LLAMA, HubOptions(batch=1, seq=8, **how)))
        for how in ({"attention": "eager"}, {"autocast": "bf16"})
    ]
    names = [{op.name for op in plan.graph.ops} for plan in plans if plan.graph is not None]
    assert "_softmax" in names[0]
    assert "_scaled_dot_product_cudnn_attention" in names[1]
    assert plans[1].fixed.parameters_bytes == plans[0].fixed.parameters_bytes


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        ("./none.json", None, "there is no file"),
        ("config.json", "{", "is not a configuration in JSON"),
        ("config.json", "[]", "must be a JSON object"),
        ("config.json", "{}", "has neither a model_type"),
        ("config.json", '{"model_type": "llamma"}', "has no model of type 'llamma'"),
        ("config.json", json.dumps({**LLAMA}), "seq is 4096, and the model has positions for 128"),
    ],
)
def test_what_cannot_be_built_is_told_in_one_line(
    tmp_path: Path, place: str, content: str | None, message: str
) -> None:
    file = tmp_path / place
    if content is not None:
        file.write_text(content)
    with pytest.raises(HubError, match=message):
        build_from_hub(str(file), HubOptions(seq=4096))


def test_a_folder_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"there is no config\.json in"):
        build_from_hub(str(tmp_path), HubOptions())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": 0}, "batch is 0; it must be 1 or more"),
        ({"dtype": "int8"}, "dtype is 'int8'; it must be fp32, bf16 or fp16"),
        ({"autocast": "fp32"}, "autocast is 'fp32'; it must be bf16 or fp16"),
        ({"attention": "flash"}, "attention is 'flash'; it must be sdpa or eager"),
    ],
)
def test_options_are_checked_before_anything_is_built(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HubOptions(**values)


_BERT = {**_TEXT, "model_type": "bert", "intermediate_size": 64}


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("BertForTokenClassification", {"input_ids": (3, 8), "labels": (3, 8)}),
        (
            "BertForQuestionAnswering",
            {"input_ids": (3, 8), "start_positions": (3,), "end_positions": (3,)},
        ),
        ("BertForMultipleChoice", {"input_ids": (3, 4, 8), "labels": (3,)}),
        (
            "BertForPreTraining",
            {"input_ids": (3, 8), "labels": (3, 8), "next_sentence_label": (3,)},
        ),
    ],
)
def test_the_architecture_that_is_named_is_built(
    name: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    """All of these became a BertLMHeadModel, without a word."""
    example = build_from_config({**_BERT, "architectures": [name]}, HubOptions(batch=3, seq=8))
    assert type(example.model).__name__ == name
    assert {key: tuple(value.shape) for key, value in example.kwargs.items()} == shapes
    assert example.notes == ()
    assert _planned(example).graph is not None


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({}, "The configuration names no architecture: this is LlamaForCausalLM."),
        (
            {"architectures": ["LlamaModel"]},
            "The configuration names LlamaModel, which has no loss that autockpt knows: this is "
            "LlamaForCausalLM instead.",
        ),
        ({"architectures": ["MyForCausalLM"]}, "names MyForCausalLM, which is not in transformers"),
        (
            {
                "architectures": ["LlamaForCausalLM"],
                "quantization_config": {"quant_method": "fp8"},
            },
            "Weights are of bf16, not quantized (fp8).",
        ),
    ],
)
def test_what_differs_from_the_configuration_is_told(change: dict[str, Any], note: str) -> None:
    example = build_from_config({**LLAMA, **change}, HubOptions(batch=1, seq=8, dtype="BF16"))
    assert type(example.model).__name__ == "LlamaForCausalLM"
    assert any(note in each for each in example.notes)


_DEBERTA = {
    **_TEXT,
    "model_type": "deberta-v2",
    "intermediate_size": 64,
    "architectures": ["DebertaV2ForMaskedLM"],
}
_MAMBA = {
    "model_type": "mamba",
    "hidden_size": 16,
    "state_size": 4,
    "num_hidden_layers": 1,
    "vocab_size": 64,
    "architectures": ["MambaForCausalLM"],
}


def test_models_without_fused_attention_are_built_with_what_they_have() -> None:
    """They could not be built unless --attention eager was given."""
    deberta = build_from_config(_DEBERTA, HubOptions(batch=1, seq=8))
    assert any("does not use scaled_dot_product_attention" in note for note in deberta.notes)
    mamba = build_from_config(_MAMBA, HubOptions(batch=1, seq=4))
    assert mamba.notes == ()  # it has no attention at all
    with pytest.raises(HubError, match="does not support an attention implementation"):
        build_from_config(_DEBERTA, HubOptions(batch=1, seq=8, attention="sdpa"))


def test_adapters_that_a_model_cannot_have_are_refused_in_one_line() -> None:
    with pytest.raises(HubError, match=r"lora: PEFT cannot adapt it: .*Mamba"):
        build_from_config(_MAMBA, HubOptions(batch=1, seq=4, lora=2))


def test_experts_can_be_adapted() -> None:
    """PEFT lets a parameter point to the sum of it and its adapter, which is not overwriting it."""
    mixtral = {
        **LLAMA,
        "model_type": "mixtral",
        "num_key_value_heads": 2,
        "num_local_experts": 2,
        "architectures": ["MixtralForCausalLM"],
    }
    plan = _planned(build_from_config(mixtral, HubOptions(batch=1, seq=8, lora=2, dtype="bf16")))
    assert plan.graph is not None


_ROBERTA = {**_BERT, "model_type": "roberta", "max_position_embeddings": 18, "pad_token_id": 1}


def test_positions_after_roberta_begin_behind_the_one_that_pads() -> None:
    """The usual number of tokens was two more than the model can read."""
    config = {**_ROBERTA, "architectures": ["RobertaForMaskedLM"]}
    assert build_from_config(config, HubOptions(batch=1)).kwargs["input_ids"].shape == (1, 16)
    with pytest.raises(HubError, match="seq is 17, and the model has positions for 16 tokens"):
        build_from_config(config, HubOptions(batch=1, seq=17))


def test_a_classifier_of_sequences_knows_what_pads() -> None:
    config = {**LLAMA, "architectures": ["LlamaForSequenceClassification"]}
    assert _planned(build_from_config(config, HubOptions(batch=2, seq=8))).graph is not None


_UNET = {
    "_class_name": "UNet2DModel",
    "sample_size": 8,
    "block_out_channels": [32],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "norm_num_groups": 8,
}


def test_denoising_models_that_know_classes_get_some(capfd: pytest.CaptureFixture[str]) -> None:
    example = build_from_config(
        {**_UNET, "num_class_embeds": 10}, HubOptions(batch=2, dtype="bf16")
    )
    assert example.kwargs["class_labels"].shape == (2,)
    assert _planned(example).graph is not None
    assert capfd.readouterr().err == ""  # diffusers has much to say about types


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**LLAMA, "hidden_size": "abc"}, "transformers cannot read it: .*expected int, got str"),
        ({**LLAMA, "num_attention_heads": 0}, "transformers cannot"),
        ({**LLAMA, "num_hidden_layers": 0}, "num_hidden_layers is 0; it must be 1 or more"),
        ({**LLAMA, "vocab_size": -5}, "vocab_size is -5; it must be 1 or more"),
        ({**LLAMA, "hidden_act": "foo"}, "transformers cannot build it: KeyError: 'foo'"),
        ({**LLAMA, "model_type": 5}, "has no model of type 5"),
        (
            {**_TEXT, "model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]},
            "reads the values of its labels, and a batch without data has none: write a function",
        ),
        (
            {**_UNET, "down_block_types": ["Foo"]},
            r"diffusers cannot build it: Foo does not exist\.",
        ),
        ({**_UNET, "class_embed_type": "identity"}, "class_embed_type is 'identity'"),
        ({**_UNET, "sample_size": "8"}, "diffusers cannot build it: "),
    ],
)
def test_what_a_library_cannot_build_is_told_in_one_line(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    with pytest.raises(HubError, match=message) as raised:
        build_from_hub(str(file), HubOptions(batch=1))
    assert str(raised.value).startswith(f"hf:{file}: ")
    assert "\n" not in str(raised.value)


def test_tokens_are_for_models_that_read_them() -> None:
    with pytest.raises(HubError, match="seq is 17, and ViTForImageClassification reads no tokens"):
        build_from_config(_CONFIGS["ViTForImageClassification"], HubOptions(seq=17))
    with pytest.raises(HubError, match="seq is 17, and UNet2DModel reads no tokens"):
        build_from_config(_UNET, HubOptions(seq=17))


def test_a_place_must_be_named() -> None:
    with pytest.raises(HubError, match=r"write hf:PLACE with a config\.json"):
        build_from_hub("", HubOptions())
