"""Small models of every kind the promise covers; a training step takes tens of milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Tiny:
    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def _tokens(batch: int = 4, length: int = 32, vocabulary: int = 64) -> torch.Tensor:
    return torch.randint(1, vocabulary, (batch, length), generator=torch.Generator().manual_seed(1))


def _pixels(batch: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def gpt2() -> Tiny:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=64,
        n_positions=32,
        n_embd=32,
        n_layer=2,
        n_head=2,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="sdpa",
        loss_type="ForCausalLM",
    )
    ids = _tokens()
    return Tiny(model=GPT2LMHeadModel(config), kwargs={"input_ids": ids, "labels": ids})


def bert() -> Tiny:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        attn_implementation="eager",
    )
    ids = _tokens()
    return Tiny(
        model=BertForMaskedLM(config),
        kwargs={"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)},
    )


def llama() -> Tiny:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        use_cache=False,
        attn_implementation="sdpa",
    )
    ids = _tokens()
    return Tiny(model=LlamaForCausalLM(config), kwargs={"input_ids": ids, "labels": ids})


def t5() -> Tiny:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=64,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        use_cache=False,
        decoder_start_token_id=0,
        pad_token_id=0,
    )
    ids = _tokens()
    return Tiny(
        model=T5ForConditionalGeneration(config),
        kwargs={"input_ids": ids, "labels": ids[:, :16].contiguous()},
    )


def vit() -> Tiny:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_labels=5,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        attn_implementation="eager",
    )
    return Tiny(
        model=ViTForImageClassification(config),
        kwargs={"pixel_values": _pixels(), "labels": torch.tensor([1, 2])},
    )


def resnet() -> Tiny:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[16, 32],
        depths=[2, 2],
        layer_type="bottleneck",
        num_labels=5,
    )
    return Tiny(
        model=ResNetForImageClassification(config),
        kwargs={"pixel_values": _pixels(4, 64), "labels": torch.tensor([1, 2, 3, 0])},
    )


def convnext() -> Tiny:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(
        hidden_sizes=[16, 32],
        depths=[2, 2],
        num_stages=2,
        num_labels=5,
        drop_path_rate=0.1,
        patch_size=4,
        image_size=64,
    )
    return Tiny(
        model=ConvNextForImageClassification(config),
        kwargs={"pixel_values": _pixels(4, 64), "labels": torch.tensor([1, 2, 3, 0])},
    )


class _Denoising(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy: torch.Tensor, step: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(self.unet(noisy, step).sample, noise)


def unet() -> Tiny:
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return Tiny(
        model=_Denoising(model),
        args=(_pixels(2, 16), torch.tensor([3, 7]), _pixels(2, 16).flip(0)),
    )


def sequential() -> Tiny:
    blocks: list[nn.Module] = []
    for inputs in (3, 16, 16):
        blocks += [nn.Conv2d(inputs, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
        blocks += [nn.Dropout(0.2)]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 1))
    return Tiny(model=nn.Sequential(model, nn.Flatten(0)), args=(_pixels(4, 24),))


class _ControlFlow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
            for _ in range(4)
        )
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor, *, scale: float = 1.0) -> dict[str, torch.Tensor]:
        for index, block in enumerate(self.blocks[:2]):
            x = x + block(x) if index % 2 else block(x) - x
        torch._dynamo.graph_break()
        for block in self.blocks[2:]:
            x = x + self.drop(block(x)) * scale
        return {"loss": x.square().mean(), "hidden": x}


def control_flow() -> Tiny:
    x = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(1))
    return Tiny(model=_ControlFlow(), args=(x,), kwargs={"scale": 0.5})


MODELS: dict[str, Callable[[], Tiny]] = {
    build.__name__: build
    for build in (
        gpt2,
        bert,
        llama,
        t5,
        vit,
        resnet,
        convnext,
        unet,
        sequential,
        control_flow,
    )
}


def build(name: str) -> Tiny:
    """A model in training mode; the same weights every time."""
    torch.manual_seed(0)
    tiny = MODELS[name]()
    tiny.model.train()
    return tiny
