"""One step on fake tensors through Dynamo and the recorder, which gives the joint graphs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch

from autockpt.capture.blame import models_code
from autockpt.capture.blocks import FailedBlocks, compile_blocks, run_in_blocks
from autockpt.capture.captured import CapturedGraph
from autockpt.capture.fakes import FakeStep
from autockpt.capture.packed_sequences import eager_answers
from autockpt.capture.recorder import Recorder, keys_of
from autockpt.torch_private.dynamo import compile_forward
from autockpt.torch_private.dynamo_settings import quiet_warnings, tracing_config
from autockpt.torch_private.modes import no_autocast
from autockpt.torch_private.pytree import tree_leaves
from autockpt.verify.loss import backward_roots, find_loss, foreign_ops


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TracedStep:
    """What tracing gives; see `Capture` for what the fields mean."""

    graphs: tuple[CapturedGraph, ...]
    held_keys: frozenset[int]
    foreign_ops: tuple[str, ...]


def run_traced_step(
    module: torch.nn.Module,
    forward: Callable[..., Any],
    fakes: FakeStep,
    *,
    loss_fn: Callable[[Any], torch.Tensor] | None,
    positions_are_counted: bool,
    in_pieces: bool,
    blocks: tuple[str, ...],
) -> TracedStep:
    """Compile the forward with a recording backend, and run it and its backward once.

    Args:
        module: Holds the fake parameters.
        forward: Its forward.
        fakes: The inputs and parameters.
        loss_fn: See `capture`.
        positions_are_counted: See `PackedSequences`.
        in_pieces: See `capture`.
        blocks: See `capture`.

    Raises:
        CaptureError: The forward or the loss cannot be traced.
        FailedBlocks: Some of the blocks cannot.
    """
    recorder = Recorder(in_pieces=in_pieces)
    failed: set[str] = set()
    compiled = compile_forward(forward, recorder)
    if blocks:
        by_path = compile_blocks(module, blocks, recorder, failed=failed)
        compiled = functools.partial(run_in_blocks, module, forward, by_path)
    with (
        tracing_config(eager_answers(positions_are_counted=positions_are_counted)),
        quiet_warnings(),
        models_code(type(module).__name__, "its forward cannot be traced"),
    ):
        output = compiled(*fakes.args, **fakes.kwargs)
        if failed:
            raise FailedBlocks(failed)
        held = tree_leaves(output)
        if loss_fn is None:
            loss: Any = find_loss(output, None)
        else:
            recorder.is_outside = True
            with models_code("loss_fn", "it cannot be traced"):
                loss = compile_forward(loss_fn, recorder)(output)
        foreign = foreign_ops(loss)
        with no_autocast():
            torch.autograd.backward(*backward_roots(loss))
    return TracedStep(
        graphs=recorder.finish(),
        held_keys=frozenset(key for t in [*held, *tree_leaves(loss)] for key in keys_of(t)),
        foreign_ops=foreign,
    )
