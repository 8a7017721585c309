"""Dispatch modes and autocast, and whether a profiler runs.

Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "SET_GRAD_ENABLED",
    "TorchDispatchMode",
    "in_a_transform",
    "no_autocast",
    "profiler_is_on",
]

# What `torch.no_grad()` and `torch.enable_grad()` become in a graph of Dynamo's.
SET_GRAD_ENABLED = torch._C._set_grad_enabled


@contextlib.contextmanager
def no_autocast() -> Iterator[None]:
    """Turn autocast off on every device, as it is where a training loop calls `backward()`."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def in_a_transform() -> bool:
    """Whether a transform of `torch.func` runs (`grad`, `vmap`, `jvp`, ...)."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def profiler_is_on() -> bool:
    """Whether one of torch's profilers runs."""
    return bool(torch._C._autograd._profiler_enabled())
