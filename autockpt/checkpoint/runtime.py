"""Module checkpointing at run time: chosen calls of submodules are recomputed in the backward.

PyTorch's checkpoint does the work; this file adds what it leaves out. A recomputed call draws the
same values from Python's and numpy's generators too, reads the buffers as they were before it,
updates none of them (BatchNorm counts a batch once), and leaves every attribute unchanged.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from autockpt.host_random import host_random_states, kept_host_random_states
from autockpt.torch_private.modules import buffer_registry
from autockpt.torch_private.pytree import tree_flatten, tree_unflatten
from autockpt.verify.held_state import unchanged_attributes
from autockpt.verify.replaced import replaced_forwards
from autockpt.verify.silence import silenced


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointedCalls:
    """Which calls of which submodules are recomputed in the backward.

    Attributes:
        is_checkpointed: By the module's name, for each of its calls with gradients in a forward;
            calls beyond the last one are treated like it.
        written: By the module's name, the buffers inside it that its forward writes.
        to_the_end: Modules in which an operator fills what it saved before (``RReLU`` its slopes).
            They are recomputed to the end, not only until everything is saved again.
    """

    is_checkpointed: Mapping[str, tuple[bool, ...]]
    written: Mapping[str, tuple[str, ...]]
    to_the_end: frozenset[str] = frozenset()


class CheckpointedForward:
    """A forward in which chosen calls are checkpointed; call it like the forward."""

    def __init__(
        self, module: torch.nn.Module, forward: Callable[..., Any], calls: CheckpointedCalls
    ) -> None:
        self._forward = forward
        self._calls = calls
        paths = [path for path, chosen in calls.is_checkpointed.items() if any(chosen)]
        self._modules = {path: module.get_submodule(path) for path in paths}

    @property
    def is_stale(self) -> bool:
        """False: whatever path the forward takes, its calls are checkpointed."""
        return False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward."""
        with self.following(self._modules, collections.Counter()):
            return self._forward(*args, **kwargs)

    @contextlib.contextmanager
    def following(self, paths: Iterable[str], counts: collections.Counter[str]) -> Iterator[None]:
        """Checkpoint the chosen calls of these modules; ``counts`` has how many came before."""

        def replace(
            path: str, module: torch.nn.Module, forward: Callable[..., Any]
        ) -> Callable[..., Any]:
            chosen = self._calls.is_checkpointed[path]

            @functools.wraps(forward)
            def call(*args: Any, **kwargs: Any) -> Any:
                if not torch.is_grad_enabled():
                    return forward(*args, **kwargs)
                number = min(counts[path], len(chosen) - 1)
                counts[path] += 1
                if not chosen[number]:
                    return forward(*args, **kwargs)
                run = _Run(self, path, module, forward, args, kwargs, counts)
                stops_early = path not in self._calls.to_the_end
                return checkpoint(run, *run.tensors, use_reentrant=False, early_stop=stops_early)

            return call

        with replaced_forwards({path: self._modules[path] for path in paths}, replace):
            yield

    def inside(self, path: str) -> list[str]:
        """The modules with chosen calls inside this one."""
        return [name for name in self._modules if name.startswith(f"{path}.")]

    def written(self, path: str) -> tuple[str, ...]:
        """The names, inside the module, of the buffers that its forward writes."""
        return self._calls.written.get(path, ())


class _Run:
    """One checkpointed call: the first run is the call, later runs leave no trace."""

    def __init__(
        self,
        step: CheckpointedForward,
        path: str,
        module: torch.nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        counts: collections.Counter[str],
    ) -> None:
        self._step, self._path = step, path
        self._module, self._forward = module, forward
        self._inside = step.inside(path)
        self._counts = collections.Counter({name: counts[name] for name in self._inside})
        self._first: tuple[tuple[Any, ...], dict[str, Any]] | None = (args, kwargs)
        leaves, self._structure = tree_flatten((args, kwargs))
        self.tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        self._is_tensor = [isinstance(leaf, torch.Tensor) for leaf in leaves]
        self._others = [leaf for leaf in leaves if not isinstance(leaf, torch.Tensor)]
        self._host_states = host_random_states()
        self._buffers = [
            (*_place(module, name), module.get_buffer(name).clone()) for name in step.written(path)
        ]

    def __call__(self, *tensors: torch.Tensor) -> Any:
        if self._first is not None:
            (args, kwargs), self._first = self._first, None
            # From here on the checkpoint keeps the inputs, and frees them in the backward.
            self.tensors = []
            return self._forward(*args, **kwargs)
        given, others = iter(tensors), iter(self._others)
        leaves = [next(given if is_tensor else others) for is_tensor in self._is_tensor]
        args, kwargs = tree_unflatten(leaves, self._structure)
        del leaves, given
        with (
            silenced(),
            kept_host_random_states(self._host_states),
            unchanged_attributes(self._module, copies=False),
            self._buffers_as_before(),
            self._step.following(self._inside, self._counts.copy()),
        ):
            return self._forward(*args, **kwargs)

    @contextlib.contextmanager
    def _buffers_as_before(self) -> Iterator[None]:
        now = [(owner, name, buffer_registry(owner)[name]) for owner, name, _ in self._buffers]
        try:
            for owner, name, value in self._buffers:
                buffer_registry(owner)[name] = value.clone()
            yield
        finally:
            for owner, name, buffer in now:
                buffer_registry(owner)[name] = buffer


def _place(module: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str]:
    owner, _, leaf = name.rpartition(".")
    return module.get_submodule(owner), leaf
