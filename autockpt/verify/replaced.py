"""Replace the forward of submodules for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

Replace = Callable[[str, torch.nn.Module, Callable[..., Any]], Callable[..., Any]]


@contextlib.contextmanager
def replaced_forwards(modules: Mapping[str, torch.nn.Module], replace: Replace) -> Iterator[None]:
    """Let ``replace(name, module, forward)`` stand for the forward of each of these modules."""
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
