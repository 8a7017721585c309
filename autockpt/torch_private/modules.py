"""The registries of a module: parameters, buffers and hooks.

Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

# Attributes of a module that hold its parts, not state of its own.
REGISTRIES = ("_parameters", "_buffers", "_modules")


def buffer_registry(module: torch.nn.Module) -> dict[str, torch.Tensor | None]:
    """A module's own buffers by name; what you change in it changes the module."""
    return module._buffers


def has_hooks(module: torch.nn.Module) -> bool:
    """Whether forward hooks are registered on a module itself."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def modes_and_hooks(module: torch.nn.Module) -> tuple[Any, ...]:
    """What may change in a module without its parameters: each part's mode and number of hooks."""
    return tuple(
        (
            part.training,
            len(part._forward_hooks),
            len(part._forward_pre_hooks),
            len(part._backward_hooks),
            len(part._backward_pre_hooks),
        )
        for part in module.modules()
    )


@contextlib.contextmanager
def entered_and_left(
    enter: Callable[[torch.nn.Module], None], leave: Callable[[torch.nn.Module], None]
) -> Iterator[None]:
    """Tell when the forward of any module of the process begins and ends."""
    hooks = torch.nn.modules.module
    handles = (
        hooks.register_module_forward_pre_hook(lambda module, _: enter(module)),
        hooks.register_module_forward_hook(lambda module, *_: leave(module), always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def has_global_hooks() -> bool:
    """Whether hooks are registered on all modules of the process."""
    return bool(torch.nn.modules.module._has_any_global_hook())


@contextlib.contextmanager
def reparametrized(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Replace parameters and buffers of `module` for a while, by their qualified names.

    `torch.nn.utils.stateless` is not used: if one submodule is registered at two places, it takes
    its own replacement for the original and leaves it behind.
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
