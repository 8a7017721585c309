"""A model together with inputs to train on."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import torch
from torch import nn

Size = Literal["small", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A model in training mode and one batch for it.

    Attributes:
        model: The model, with random weights.
        args: Positional arguments of its forward.
        kwargs: Keyword arguments of its forward.
        loss_fn: Computes a scalar from the forward's output. None if the forward returns a scalar
            or an output with a `loss`.
        notes: What you should know of how it was made, one sentence each.
    """

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    loss_fn: Callable[[Any], torch.Tensor] | None = None
    notes: tuple[str, ...] = ()

    def loss(self) -> torch.Tensor:
        """Runs the forward on the batch and returns the scalar to differentiate."""
        return self.loss_of(self.model(*self.args, **self.kwargs))

    def loss_of(self, output: Any) -> torch.Tensor:
        """Returns the scalar to differentiate, given the forward's output."""
        if self.loss_fn is not None:
            return self.loss_fn(output)
        loss = getattr(output, "loss", output)
        assert isinstance(loss, torch.Tensor)
        return loss


def library(name: str) -> ModuleType:
    """Imports a library that only the examples need.

    Raises:
        ModuleNotFoundError: If it is not installed; the message names the extra to install.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(
            f'this model needs {name}: pip install "autockpt[experiments]"', name=name
        ) from error


def tokens(vocabulary: int, batch: int, length: int) -> torch.Tensor:
    """Draws token ids without the lowest few, which models use for padding and the like."""
    return torch.randint(4, vocabulary, (batch, length))
