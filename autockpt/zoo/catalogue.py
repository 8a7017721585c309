"""What the zoo has, by name; knows no model and no torch."""

from __future__ import annotations

NAMES = (
    "gpt2",
    "bert-base",
    "bert-large",
    "llama",
    "t5",
    "mamba",
    "vit",
    "resnet50",
    "convnext",
    "unet",
    "whisper",
    "sequential",
    "control-flow",
)


def names() -> tuple[str, ...]:
    """Returns the names that `build` knows."""
    return NAMES
