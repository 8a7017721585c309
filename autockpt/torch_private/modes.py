"""Modes and parameters of a module, changed for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves


@contextlib.contextmanager
def no_autocast() -> Iterator[None]:
    """Autocast off on every device, as where a training loop calls ``backward()``."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


@contextlib.contextmanager
def reparametrized(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Let ``module`` hold these tensors as its parameters and buffers for a while, by name.

    Not ``torch.nn.utils.stateless``: where one submodule stands at two places it takes its own
    replacement for the original, and leaves that behind.
    """
    registries = [
        (f"{prefix}." if prefix else "", registry, dict(registry))
        for prefix, inner in module.named_modules()
        for registry in (inner._parameters, inner._buffers)
    ]
    try:
        for prefix, registry, before in registries:
            registry.update({n: tensors.get(prefix + n, t) for n, t in before.items()})
        yield
    finally:
        for _, registry, before in registries:
            registry.clear()
            registry.update(before)


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
    """Another fake of the same layout and mode: where a mode is on it would be that one's."""
    return run_on_fakes(torch.empty_like, (fake,), {})
