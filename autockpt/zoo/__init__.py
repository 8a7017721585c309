"""Models for trying autockpt: real architectures with random weights, each in two sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt.zoo.catalogue import names
from autockpt_solvers.lazy_names import lazy_names

if TYPE_CHECKING:
    from autockpt.zoo.example import Example, Size
    from autockpt.zoo.registry import build

__all__ = ["Example", "Size", "build", "names"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Example": "autockpt.zoo.example",
        "Size": "autockpt.zoo.example",
        "build": "autockpt.zoo.registry",
    },
)
