"""The ways of others to train in less memory, each applied to a copy of a model."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential

from autockpt.experiments.peers.models import PeerModel
from autockpt.torch_private.aot import activation_memory_budget
from autockpt.zoo.example import Example, library

_EVERY = (1, 2, 4)
_SHARES = (0.5, 0.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to train a model in less memory.

    Attributes:
        name: Its name on the page.
        family: Ways of one family do the same with other settings.
        is_best_of: Whether only the way with the lowest peak of its family is compared.
        apply: Returns the example with a changed copy of its model.
        compiling: What must be on while the model first runs.
    """

    name: str
    family: str
    apply: Callable[[Example], Example]
    is_best_of: bool = False
    compiling: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


def ways_of(model: PeerModel, example: Example) -> Iterator[Way]:
    """The ways that a model can be trained in; those that it does not support are left out."""
    if getattr(example.model, "supports_gradient_checkpointing", False):
        for k in _EVERY:
            words = {1: "every layer", 2: "every second layer", 4: "every fourth layer"}
            yield Way(
                name=f"Hugging Face, {words[k]}",
                family="Hugging Face",
                apply=lambda example, k=k: _library_checkpointing(example, every=k),  # type: ignore[misc]
            )
    if model.layers:
        num_layers = len(example.model.get_submodule(model.layers))  # type: ignore[arg-type]
        for segments in sorted({2, 3, 4, num_layers // 2, num_layers}):
            if 2 <= segments <= num_layers:
                yield Way(
                    name=f"`checkpoint_sequential`, {segments} segments",
                    family="checkpoint_sequential",
                    apply=lambda example, n=segments: _sequential(example, model.layers, n),  # type: ignore[misc]
                    is_best_of=True,
                )
    for share in _SHARES:
        yield Way(
            name=f"`activation_memory_budget` {share:g}",
            family="activation_memory_budget",
            apply=_compiled,
            compiling=lambda share=share: activation_memory_budget(share),  # type: ignore[misc]
        )


def copied(example: Example) -> Example:
    """The example with a copy of its model."""
    return dataclasses.replace(example, model=copy.deepcopy(example.model))


def _library_checkpointing(example: Example, *, every: int) -> Example:
    """The library's own checkpointing, of each k-th layer of every stack of layers."""
    layer_type = library("transformers").modeling_layers.GradientCheckpointingLayer
    changed = copied(example)
    model: Any = changed.model
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            layers = [layer for layer in stack if isinstance(layer, layer_type)]
            for number, layer in enumerate(layers):
                layer.gradient_checkpointing = number % every == 0
    model.train()
    return changed


class _Sequential(nn.Module):
    """Layers as one, which runs them with torch's `checkpoint_sequential`."""

    def __init__(self, layers: nn.ModuleList, segments: int) -> None:
        super().__init__()
        self.layers = layers
        self.segments = segments

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run all layers; those of all segments but the last are run again in the backward."""
        functions = [
            lambda value, layer=layer: layer(value, *args, **kwargs) for layer in self.layers
        ]
        return checkpoint_sequential(functions, self.segments, x, use_reentrant=False)


def _sequential(example: Example, path: str, segments: int) -> Example:
    changed = copied(example)
    layers = changed.model.get_submodule(path)
    assert isinstance(layers, nn.ModuleList)
    changed.model.set_submodule(path, nn.ModuleList([_Sequential(layers, segments)]))
    return changed


def _compiled(example: Example) -> Example:
    """The model compiled, by graphs that its partitioner has cut and that then run as eager."""
    changed = copied(example)
    compiled: Any = torch.compile(changed.model, backend="aot_eager")
    return dataclasses.replace(changed, model=compiled)
