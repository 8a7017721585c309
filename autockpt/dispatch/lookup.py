"""Finds what is optimized of a module."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from autockpt.dispatch.forward import OptimizedForward


def optimized_forward(module: torch.nn.Module) -> OptimizedForward | None:
    """The optimized forward of a module, also under wrappers that others put around it."""
    return _found(module.__dict__.get("forward"))


def optimized_methods(module: torch.nn.Module) -> list[OptimizedForward]:
    """The optimized forward of a module and its other methods that are optimized."""
    found = [_found(value) for name, value in module.__dict__.items() if callable(value)]
    return [each for each in found if each is not None]


def _found(method: Any) -> OptimizedForward | None:
    if method is None or isinstance(method, torch.nn.Module):
        return None
    inner = inspect.unwrap(method, stop=lambda f: isinstance(f, OptimizedForward))
    return inner if isinstance(inner, OptimizedForward) and inner.is_installed else None
