"""Fake tensors: they have a shape, strides and a device, and no data.

Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import _disable_current_modes

from autockpt.torch_private.modes import no_autocast
from autockpt.torch_private.pytree import tree_leaves

__all__ = [
    "DataDependentOutputException",
    "FakeTensor",
    "FakeTensorMode",
    "UnsupportedOperatorException",
    "fake_like",
    "run_on_fakes",
    "unset_fake_temporarily",
]


def run_on_fakes(function: Any, args: Any, kwargs: Any) -> Any:
    """Call an operator on fake tensors in their own mode, whatever modes are on."""
    fakes = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, FakeTensor)]
    with (
        _disable_current_modes(),
        fakes[0].fake_mode if fakes else contextlib.nullcontext(),
        no_autocast(),
        torch.no_grad(),
    ):
        return function(*args, **kwargs)


def fake_like(fake: torch.Tensor) -> Any:
    """Another fake tensor of the same layout and mode, even if another fake mode is on."""
    return run_on_fakes(torch.empty_like, (fake,), {})
