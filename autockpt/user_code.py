"""Which lines are your code, and neither PyTorch's, Python's nor autockpt's own."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

_PACKAGE = Path(__file__).parent
_MODELS = _PACKAGE / "zoo"
_TORCH = Path(torch.__file__).parent
_PYTHON = Path(contextlib.__file__).parent


def is_autockpts(filename: str) -> bool:
    """Whether a file is autockpt's; its zoo of models counts as your code."""
    path = Path(filename)
    return path.is_relative_to(_PACKAGE) and not path.is_relative_to(_MODELS)


def users_place(lines: Sequence[tuple[str, int]]) -> str:
    """The innermost of these lines that is your code, as file and line; empty if there is none."""
    for filename, line in reversed(lines):
        path = Path(filename)
        is_torchs = path.is_relative_to(_TORCH) or path.parent == _PYTHON
        if not is_torchs and not is_autockpts(filename):
            return f"{filename}:{line}"
    return ""


def raised_at(error: BaseException) -> str:
    """The innermost line of your code that an error came through; empty if there is none."""
    trace = traceback.extract_tb(error.__traceback__)
    return users_place([(frame.filename, frame.lineno or 0) for frame in trace])
