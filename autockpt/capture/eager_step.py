"""One eager step on fake tensors: what PyTorch itself keeps, and when gradients are complete."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from autockpt.capture.blame import models_code
from autockpt.capture.dispatched import StepRecorder
from autockpt.capture.fakes import FakeStep
from autockpt.capture.packed_sequences import PackedSequences
from autockpt.capture.recorder import keys_of
from autockpt.errors import CaptureError
from autockpt.loop import Loop
from autockpt.torch_private.generators import noticing_rng_states
from autockpt.torch_private.modes import no_autocast
from autockpt.torch_private.pytree import tree_leaves
from autockpt.torch_private.subclasses import TypesFollowed
from autockpt.verify.held_state import unchanged_attributes
from autockpt.verify.inputs import input_leaves
from autockpt.verify.live_bytes import LiveBytes
from autockpt.verify.loss import (
    BackwardRoots,
    find_loss,
    freed_tensors,
    require_gradient,
    run_backward,
)
from autockpt.verify.outside import gradients_set_aside
from autockpt.verify.silence import silenced


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EagerStep:
    """What the eager step shows; see `Capture` for what the fields mean."""

    peak_bytes: int
    gradient_order: tuple[int, ...]
    output_types: tuple[tuple[int, int], ...]


def run_eager_step(
    module: torch.nn.Module,
    forward: Callable[..., Any],
    fakes: FakeStep,
    packed: PackedSequences,
    *,
    loss_fn: Callable[[Any], torch.Tensor] | None,
    plain: dict[int, torch.Tensor],
    loop: Loop,
    unit_bytes: int = 1,
    recorder: StepRecorder | None = None,
) -> EagerStep:
    """Run the step as eager PyTorch does, on tensors without data; its gradients are discarded.

    Args:
        module: Holds the fake parameters.
        forward: Its forward.
        fakes: The inputs and parameters.
        packed: Sees where position ids come from.
        loss_fn: See `capture`.
        plain: The inputs that take the place of tensors of subclasses, by their number.
        loop: See `capture`; the step has one call, however many share its backward.
        unit_bytes: What the size of an allocation is a multiple of.
        recorder: Records the step, if any.

    Raises:
        CaptureError: The step fails on these inputs.
        NotTrainableError: Nothing in the output requires a gradient.
    """
    parameters = list(fakes.tensors.values())
    for fake in fakes.with_gradients:
        fake.grad = torch.empty_like(fake)
    arrivals: list[int] = []
    for fake in parameters:
        if fake.requires_grad and fake.is_leaf:
            fake.register_post_accumulate_grad_hook(lambda p: arrivals.extend(keys_of(p)))
    older_gradients = [fake.grad for fake in parameters]
    resting = [*input_leaves((fakes.args, fakes.kwargs)), *parameters, *older_gradients]
    tracker = LiveBytes(resting, unit_bytes=unit_bytes)
    name = type(module).__name__
    types = TypesFollowed(plain)
    with (
        models_code(name, "its forward fails on these inputs"),
        unchanged_attributes(module) as attributes,
        packed.watched(),
        types if plain else contextlib.nullcontext(),
        silenced(),
        gradients_set_aside() as outside,
        tracker,
        noticing_rng_states(lambda state: tracker.add([state])),
        recorder.recording() if recorder is not None else contextlib.nullcontext(),
    ):
        if loop.clears_late:
            for fake in parameters:
                fake.grad = torch.empty_like(fake) if fake.requires_grad else None
        output = forward(*fakes.args, **fakes.kwargs)
        if attributes.has_drawn_in_python():
            raise CaptureError(
                where=name,
                reason="it draws from a random.Random of its own, which would be a constant",
            )
        if recorder is not None:
            recorder.leave_the_model()
        loss: Any = find_loss(output, loss_fn, loop.used_outputs)
        require_gradient(loss)
        roots = BackwardRoots.of(loss, freed_tensors(output, loop))
        output_types = tuple(
            (number, found)
            for number, leaf in enumerate(tree_leaves(output))
            if (found := types.of(leaf)) is not None
        )
        if recorder is not None:
            recorder.end_forward(tree_leaves(output), tree_leaves(loss))
        if loop.frees_any:
            del output, loss
        if loop.clears_late:
            for fake in parameters:
                fake.grad = None
        outside.take(roots.nodes, own=parameters)
        with no_autocast():
            run_backward([roots])
        del roots
        if recorder is not None:
            trained = [*parameters, *input_leaves((fakes.args, fakes.kwargs))]
            recorder.end_backward([t for t in trained if isinstance(t, torch.Tensor)])
    for fake in parameters:
        fake.grad = None
    return EagerStep(
        peak_bytes=tracker.peak_bytes,
        gradient_order=tuple(dict.fromkeys(arrivals)),
        output_types=output_types,
    )
