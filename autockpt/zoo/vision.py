"""Vision models: classifiers of Hugging Face transformers, and a diffusion U-Net of diffusers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autockpt.zoo.example import Example, Size, library


def vit(size: Size, batch: int | None = None) -> Example:
    """A vision transformer; full: ViT-B/16, 32 images of 224."""
    hf = library("transformers")
    if size == "small":
        batch, pixels = batch or 4, 112
        shape: dict[str, Any] = {
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "patch_size": 8,
            "num_labels": 10,
        }
    else:
        batch, pixels = batch or 32, 224
        shape = {"num_labels": 1000}
    config = hf.ViTConfig(**shape, image_size=pixels, attn_implementation="sdpa")
    return _classifier(hf.ViTForImageClassification(config), batch, pixels, config.num_labels)


def resnet50(size: Size, batch: int | None = None) -> Example:
    """ResNet-50 with BatchNorm; full: 32 images of 224. The small one is a quarter as wide."""
    hf = library("transformers")
    if size == "small":
        batch, pixels = batch or 8, 160
        shape: dict[str, Any] = {
            "embedding_size": 16,
            "hidden_sizes": [64, 128, 256, 512],
            "num_labels": 10,
        }
    else:
        batch, pixels = batch or 32, 224
        shape = {"num_labels": 1000}
    config = hf.ResNetConfig(**shape)
    return _classifier(hf.ResNetForImageClassification(config), batch, pixels, config.num_labels)


def convnext(size: Size, batch: int | None = None) -> Example:
    """ConvNeXt-T with stochastic depth; full: 32 images of 224."""
    hf = library("transformers")
    if size == "small":
        batch, pixels = batch or 8, 128
        shape: dict[str, Any] = {"hidden_sizes": [24, 48, 96, 192], "num_labels": 10}
    else:
        batch, pixels = batch or 32, 224
        shape = {"num_labels": 1000}
    config = hf.ConvNextConfig(**shape, image_size=pixels, drop_path_rate=0.1)
    return _classifier(hf.ConvNextForImageClassification(config), batch, pixels, config.num_labels)


def _classifier(model: nn.Module, batch: int, pixels: int, num_labels: int) -> Example:
    images = torch.randn(batch, 3, pixels, pixels)
    labels = torch.randint(num_labels, (batch,))
    return Example(model=model, kwargs={"pixel_values": images, "labels": labels})


class Denoiser(nn.Module):
    """A U-Net with the loss it is trained with: the mean squared error of the predicted noise."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """Returns the scalar loss."""
        predicted = self.unet(noisy, timesteps, return_dict=False)[0]
        return nn.functional.mse_loss(predicted, noise)


def unet(size: Size, batch: int | None = None) -> Example:
    """A diffusion U-Net with long skip connections; full: DDPM at 256 pixels, 4 images."""
    diffusers = library("diffusers")
    if size == "small":
        batch, pixels = batch or 2, 64
        shape: dict[str, Any] = {
            "block_out_channels": (32, 64, 64),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "norm_num_groups": 8,
        }
    else:
        batch, pixels = batch or 4, 256
        shape = {
            "block_out_channels": (128, 128, 256, 256, 512, 512),
            "down_block_types": (
                *("DownBlock2D",) * 4,
                "AttnDownBlock2D",
                "DownBlock2D",
            ),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
            "attention_head_dim": None,
            "downsample_padding": 0,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
        }
    model = diffusers.UNet2DModel(sample_size=pixels, **shape)
    noisy = torch.randn(batch, 3, pixels, pixels)
    return Example(
        model=Denoiser(model),
        args=(noisy, torch.randint(1000, (batch,)), torch.randn_like(noisy)),
    )
