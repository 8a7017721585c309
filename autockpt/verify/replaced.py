"""Temporary replacements for the forward of submodules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

Replace = Callable[[str, torch.nn.Module, Callable[..., Any]], Callable[..., Any]]


@contextlib.contextmanager
def replaced_forwards(modules: Mapping[str, torch.nn.Module], replace: Replace) -> Iterator[None]:
    """Runs ``replace(name, module, forward)`` in place of the forward of each module."""
    before: list[tuple[torch.nn.Module, Any]] = []
    try:
        for path, module in modules.items():
            before.append((module, module.__dict__.get("forward")))
            module.__dict__["forward"] = replace(path, module, module.forward)
        yield
    finally:
        for module, forward in before:
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward
