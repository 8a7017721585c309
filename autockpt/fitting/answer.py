"""The answer of `fit` as a value that prints itself."""

from __future__ import annotations

from dataclasses import dataclass

from autockpt.fitting.text import text
from autockpt.fitting.value import FitValues


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit(FitValues):
    """Whether a training step fits a device; `str(fit)` is the report."""

    def __str__(self) -> str:
        return text(self)
