"""What a step reaches beside its model: parameters and modules that a loss or a forward refers to.

A criterion with weights of its own, or a layer that a forward finds in a global variable, takes
part in every step that is tried. Its gradients and buffers are yours, as the model's are.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import torch


def modules_of(function: Any) -> list[torch.nn.Module]:
    """Returns the modules that a function is, is bound to, or refers to by name."""
    if isinstance(function, torch.nn.Module):
        return [function]
    if isinstance(function, functools.partial):
        given = [*function.args, *function.keywords.values()]
        return [*modules_of(function.func), *_modules(given)]
    bound = _modules([getattr(function, "__self__", None)])
    try:
        named = inspect.getclosurevars(inspect.unwrap(function))
    except (TypeError, ValueError):  # not written in Python
        return bound
    return [*bound, *_modules([*named.nonlocals.values(), *named.globals.values()])]


def _modules(values: Iterable[Any]) -> list[torch.nn.Module]:
    return [value for value in values if isinstance(value, torch.nn.Module)]


def leaves_of(nodes: Iterable[Any]) -> list[torch.Tensor]:
    """Returns the tensors that a backward from these autograd nodes would add gradients to."""
    leaves: list[torch.Tensor] = []
    seen: set[Any] = set()
    pending = list(nodes)
    while pending:
        node: Any = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        pending.extend(parent for parent, _ in node.next_functions)
    return leaves


class Gradients:
    """Gradients of tensors outside of the model, taken off them until the end."""

    def __init__(self) -> None:
        self._before: list[tuple[torch.Tensor, torch.Tensor | None]] = []

    def take(self, nodes: Iterable[Any], *, own: Iterable[Any]) -> None:
        """Takes the gradients off the leaves of a backward from these nodes, but ``own``."""
        known = {id(value) for value in own}
        for leaf in leaves_of(nodes):
            if id(leaf) not in known:
                self._before.append((leaf, leaf.grad))
                leaf.grad = None

    def put_back(self) -> None:
        """Puts them back."""
        for tensor, gradient in self._before:
            tensor.grad = gradient


@contextlib.contextmanager
def gradients_set_aside() -> Iterator[Gradients]:
    """Puts gradients back on exit."""
    gradients = Gradients()
    try:
        yield gradients
    finally:
        gradients.put_back()
