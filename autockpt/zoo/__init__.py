"""Models for trying autockpt: real architectures with random weights, each in two sizes."""

from __future__ import annotations

from autockpt.zoo.example import Example, Size
from autockpt.zoo.registry import build, names

__all__ = ["Example", "Size", "build", "names"]
