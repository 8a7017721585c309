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
    "device_asked_for",
    "fake_like",
    "run_on_fakes",
    "unset_fake_temporarily",
]


# A fake tensor asks the modes that are on for its device, whenever anybody reads that.
_DEVICE_OF = torch.ops.prim.device.default


def device_asked_for(func: Any, args: Any) -> torch.device | None:
    """Returns the answer to an operator that asks a fake tensor for its device.

    Most of what reaches a mode is that question: a mode that answers it itself saves the way
    through all others.

    Returns:
        The device; None if the operator is another one, or the tensor is inside of a kernel.
    """
    if func is not _DEVICE_OF or not isinstance(args[0], FakeTensor):
        return None
    return None if args[0].fake_mode.in_kernel_invocation else args[0].fake_device


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
