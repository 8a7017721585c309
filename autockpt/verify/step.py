"""Runs real training steps to verify a rewritten model: its bits and its peak.

Afterwards the model is as before: gradients, buffers, attributes and random states are restored.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch

from autockpt.loop import Loop
from autockpt.torch_private.modes import no_autocast
from autockpt.torch_private.modules import buffer_registry
from autockpt.torch_private.pytree import tree_leaves
from autockpt.torch_private.tensors import has_step_in_backward
from autockpt.verify.copies import own_copies
from autockpt.verify.held_state import unchanged_attributes
from autockpt.verify.inputs import input_leaves
from autockpt.verify.loss import BackwardRoots, find_loss, freed_tensors, run_backward
from autockpt.verify.outside import Gradients, gradients_set_aside, modules_of
from autockpt.verify.peak import measure_peak_bytes
from autockpt.verify.random_state import (
    kept_random_states,
    random_states,
    same_states,
    seed_generators,
)
from autockpt.verify.silence import silenced
from autockpt.verify.snapshot import Snapshot

_T = TypeVar("_T")
# Draws tried if all take the same path, and if paths differ from draw to draw.
_FEW_DRAWS, _MOST_DRAWS = 4, 16
_WORDS = 4096  # that are summed at once
_MODULUS = 2**63  # so that the sum fits into a tensor


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """The results of a step, and its peak memory beyond what was allocated before it."""

    tensors: dict[str, torch.Tensor | None]
    random_states: tuple[Any, ...]
    peak_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A training step to try: a forward on its inputs, a loss, a backward.

    ``loop`` says how many forwards share the backward, which outputs are freed before it, what
    happens to gradients of an earlier one, and what other calls need before the backward. ``draw``
    seeds the generators; 0 leaves them as they are.
    """

    module: torch.nn.Module
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    loss_fn: Callable[[Any], torch.Tensor] | None
    device: torch.device
    loop: Loop
    draw: int = 0

    def with_other_draws(
        self,
        first: _T,
        states: tuple[Any, ...],
        attempt: Callable[[Step], _T],
        path: Callable[[_T], Any],
    ) -> list[_T]:
        """Returns the results of an attempt with other random draws; more draws if paths differ.

        The path of a forward may depend on its draws (layers dropped at random), and so may its
        peak.

        Args:
            first: The result of the attempt for this step.
            states: The generators' states after it; if they did not move, there is nothing to try.
            attempt: Runs a step.
            path: Returns what differs between two results if the forwards took different paths.
        """
        results: list[_T] = []
        if same_states(states, random_states(self.device)):
            return results
        for draw in range(1, _MOST_DRAWS):
            if draw == _FEW_DRAWS and all(path(result) == path(first) for result in results):
                break
            results.append(attempt(dataclasses.replace(self, draw=draw)))
        return results

    def peak_bytes_of_other_draws(self, record: StepRecord) -> int:
        """Returns the highest peak with draws other than those of ``record``; 0 if none."""
        peaks = self.with_other_draws(
            record.peak_bytes,
            record.random_states,
            lambda step: step.record(warm_up=False).peak_bytes,
            path=lambda peak_bytes: peak_bytes,
        )
        return max(peaks, default=0)

    def record(self, *, warm_up: bool, measures_peak: bool = True) -> StepRecord:
        """Runs the step and restores the model.

        Args:
            warm_up: Runs the step once before, so that compilation is not measured.
            measures_peak: Whether to measure the peak, which takes a while to begin; otherwise it
                is 0 in the record.
        """
        if warm_up:
            with self.state_kept() as outside:
                self.run([], own_copies((self.args, dict(self.kwargs))), outside)
        kept: list[Any] = []
        inputs = own_copies((self.args, dict(self.kwargs)))
        with self.state_kept() as outside:
            peak_bytes = 0
            if measures_peak:
                peak_bytes = measure_peak_bytes(
                    lambda: self.run(kept, inputs, outside), self.device
                )
            else:
                self.run(kept, inputs, outside)
            tensors: dict[str, torch.Tensor | None] = {
                f"output {i}": torch.as_tensor(leaf).detach()
                for i, leaf in enumerate(input_leaves(kept))
                if isinstance(leaf, (torch.Tensor, int))
            }
            for i, leaf in enumerate(input_leaves(inputs)):
                if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
                    tensors[f"gradient of input {i}"] = leaf.grad
            for name, parameter in self.module.named_parameters():
                gradient = parameter.grad
                if self.loop.accumulates and gradient is not None:
                    gradient = gradient.clone()
                tensors[f"gradient of {name}"] = gradient
            for name, buffer in self.module.named_buffers():
                tensors[f"buffer {name}"] = buffer.clone()
            states = random_states(self.device)
        return StepRecord(tensors=tensors, random_states=states, peak_bytes=peak_bytes)

    def failure(self) -> Exception | None:
        """What the step raises, run once with nothing measured; None if it runs."""
        try:
            with self.state_kept() as outside:
                self.run([], own_copies((self.args, dict(self.kwargs))), outside)
        except Exception as error:  # noqa: BLE001 - whatever the user's model raises
            return error
        return None

    @contextlib.contextmanager
    def state_kept(self) -> Iterator[Gradients]:
        """Seeds the generators for this step's draw, and restores the model and the loss on exit.

        Yields:
            What is to restore gradients of tensors that belong to neither.
        """
        with (
            loss_kept(self.loss_fn),
            state_kept(self.module, self.device, accumulates=self.loop.accumulates),
            gradients_set_aside() as outside,
        ):
            if self.draw:
                seed_generators(self.draw, self.device)
            yield outside

    def run(
        self,
        kept: list[Any],
        inputs: tuple[tuple[Any, ...], dict[str, Any]],
        outside: Gradients,
    ) -> None:
        """Runs the forward and the backward.

        Args:
            kept: Receives the output and the loss.
            inputs: Copies of the inputs.
            outside: What `state_kept` yields.
        """
        with silenced(self.forward):
            with self._older_gradients():
                roots = [self._forward(kept, inputs) for _ in range(self.loop.num_calls)]
            own = [*self.module.parameters(), *input_leaves(inputs)]
            outside.take([node for call in roots for node in call.nodes], own=own)
            # Stands for the calls in between; nothing is written to it.
            torch.empty(self.loop.others.between_bytes, dtype=torch.uint8, device=self.device)
            with no_autocast():
                if self.loop.keeps_graph:
                    # Each part of the backward needs no more than the whole.
                    run_backward(roots, keeps_graph=True)
                run_backward(roots)
            del roots

    def _forward(
        self, kept: list[Any], inputs: tuple[tuple[Any, ...], dict[str, Any]]
    ) -> BackwardRoots:
        """Runs one call; returns where its backward begins, without the outputs to be freed."""
        args, kwargs = inputs
        output = self.forward(*args, **kwargs)
        loss = find_loss(output, self.loss_fn, self.loop.used_outputs)
        freed = freed_tensors(output, self.loop)
        # An object that nothing can look into is kept as it is, with the tensors in it.
        kept += [
            _bits_sum(leaf) if id(leaf) in freed and leaf.layout is torch.strided else leaf
            for leaf in tree_leaves([output, *loss])
        ]
        return BackwardRoots.of(loss, freed)

    @contextlib.contextmanager
    def _older_gradients(self) -> Iterator[None]:
        """Lets older gradients be in memory inside, if the loop clears them late."""
        if self.loop.clears_late:
            for parameter in self.module.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)
        try:
            yield
        finally:
            if self.loop.clears_late:
                for parameter in self.module.parameters():
                    parameter.grad = None


def _bits_sum(tensor: torch.Tensor) -> int:
    """What stands for a tensor that is freed: the sum of its bits, as integers."""
    words = tensor.detach()
    if words.is_complex():
        words = torch.view_as_real(words.resolve_conj())
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    words = words.view(sizes[words.element_size()])
    if words.device.type != "cpu":
        return int(words.sum()) % _MODULUS
    # A sum of small integers on the CPU copies them first: in pieces, so that it is not measured.
    parts = words.view(-1).split(_WORDS) if words.is_contiguous() else words.split(1)
    return sum(int(part.sum()) for part in parts) % _MODULUS


def run_on_copies(
    module: torch.nn.Module,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    """Runs a forward on copies of its inputs and restores the model; its errors are raised."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    own_args, own_kwargs = own_copies((args, dict(kwargs)))
    with state_kept(module, device), silenced(forward):
        forward(*own_args, **own_kwargs)


@contextlib.contextmanager
def loss_kept(loss_fn: Callable[..., Any] | None) -> Iterator[None]:
    """Restores buffers and attributes of the modules that a loss function refers to."""
    with contextlib.ExitStack() as stack:
        for module in modules_of(loss_fn):
            stack.enter_context(_buffers_kept(module))
            stack.enter_context(unchanged_attributes(module))
        yield


def acts_on_parameters(module: torch.nn.Module) -> bool:
    """Whether a step itself changes parameters, as an optimizer in the backward does."""
    if any(getattr(m, "max_norm", None) is not None for m in module.modules()):
        return True
    return any(has_step_in_backward(p) for p in module.parameters())


@contextlib.contextmanager
def _no_gradients(module: torch.nn.Module) -> Iterator[None]:
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient


@contextlib.contextmanager
def _same_gradients(module: torch.nn.Module) -> Iterator[None]:
    """Lets a backward add to the gradients, and restores them from copies on the host."""
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    before = Snapshot([g for _, g in gradients if g is not None], on_host=True)
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        before.put_back()


@contextlib.contextmanager
def _buffers_kept(module: torch.nn.Module) -> Iterator[None]:
    buffers = [(m, dict(buffer_registry(m))) for m in module.modules()]
    values = Snapshot(module.buffers())
    try:
        yield
    finally:
        for m, names in buffers:
            registry = buffer_registry(m)
            registry.clear()
            registry.update(names)
        values.put_back()


@contextlib.contextmanager
def state_kept(
    module: torch.nn.Module, device: torch.device, *, accumulates: bool = False
) -> Iterator[None]:
    """Restores gradients, buffers, attributes and random states on exit.

    Versions of tensors are restored too: a graph that waits for its backward does not notice.
    Inside, gradients are None, unless the step accumulates.
    """
    # Autocast caches its copies of parameters until the caller's block ends. Every step must make
    # its own, which counts, and must not find those of another step.
    torch.clear_autocast_cache()
    try:
        with (
            _buffers_kept(module),
            _same_gradients(module) if accumulates else _no_gradients(module),
            kept_random_states(device),
            unchanged_attributes(module),
        ):
            yield
    finally:
        torch.clear_autocast_cache()
