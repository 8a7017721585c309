"""The networks of the papers on checkpointing, in the sizes that they were measured in.

Each function returns a model, its inputs by name, and nothing else: the losses are in the models.
Models are made on the meta device, so that nothing needs memory: the experiments estimate times for
the cards that the papers used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Step = tuple[nn.Module, Mapping[str, Any]]


class WithLoss(nn.Module):
    """A network and its cross entropy."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(self.network(images), labels)


class VGG16(nn.Module):
    """VGG-16 with BatchNorm, configuration D of Simonyan and Zisserman (2015)."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(depth):
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.classifier(self.features(images).flatten(1))
        return scores


class DoubleConvolution(nn.Sequential):
    """Two convolutions of a U-Net."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """The U-Net of Ronneberger et al. (2015), with padding, so that sizes stay."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        widths = (64, 128, 256, 512, 1024)
        self.down = nn.ModuleList(
            DoubleConvolution(a, b) for a, b in zip((3, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, stride=2)
            for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.merge = nn.ModuleList(DoubleConvolution(2 * a, a) for a in widths[-2::-1])
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        saved: list[torch.Tensor] = []
        x = images
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else functional.max_pool2d(x, 2))
            saved.append(x)
        saved.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([saved.pop(), up(x)], dim=1))
        scores: torch.Tensor = self.head(x)
        return scores


def vgg16(batch: int = 176) -> Step:
    with torch.device("meta"):
        return WithLoss(VGG16()).train(), _images(batch, 224)


def unet(batch: int = 11) -> Step:
    """The images of Checkmate's U-Net have 416 x 608 pixels."""
    with torch.device("meta"):
        labels = torch.zeros(batch, 416, 608, dtype=torch.long)
        return WithLoss(UNet()).train(), {
            "images": torch.randn(batch, 3, 416, 608),
            "labels": labels,
        }


def mobilenet(batch: int = 256) -> Step:
    import transformers as hf

    config = hf.MobileNetV2Config(num_labels=1000, image_size=224)
    return _classifier(hf.MobileNetV2ForImageClassification, config, batch)


def resnet50(batch: int = 184) -> Step:
    import transformers as hf

    return _classifier(hf.ResNetForImageClassification, hf.ResNetConfig(num_labels=1000), batch)


def gpt2(batch: int = 8) -> Step:
    import transformers as hf

    config = hf.GPT2Config(attn_implementation="eager", loss_type="ForCausalLM")
    return _language(hf.GPT2LMHeadModel, config, batch, 1024, use_cache=False)


def bert(batch: int = 16) -> Step:
    import transformers as hf

    config = hf.BertConfig(attn_implementation="eager")
    return _language(hf.BertForMaskedLM, config, batch, 512)


def _classifier(kind: Any, config: Any, batch: int) -> Step:
    with torch.device("meta"):
        images = _images(batch, 224)
        model = kind(config).train()
    return model, {"pixel_values": images["images"], "labels": images["labels"]}


def _language(kind: Any, config: Any, batch: int, length: int, **options: Any) -> Step:
    with torch.device("meta"):
        ids = torch.zeros(batch, length, dtype=torch.long)
        return kind(config).train(), {"input_ids": ids, "labels": ids, **options}


def _images(batch: int, size: int) -> dict[str, torch.Tensor]:
    return {
        "images": torch.randn(batch, 3, size, size),
        "labels": torch.zeros(batch, dtype=torch.long),
    }
