"""One step on fake tensors through Dynamo and the recorder, which gives the joint graphs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from autockpt.capture.blame import first_line, models_code, place_of
from autockpt.capture.blocks import FailedBlocks, compile_blocks, run_in_blocks
from autockpt.capture.captured import CapturedGraph, Keys
from autockpt.capture.compiled import Backend, CompiledForward
from autockpt.capture.fakes import FakeStep, running_on, standing_in_for
from autockpt.capture.packed_sequences import eager_answers
from autockpt.capture.pieces import Pieces
from autockpt.capture.recorder import Recorder, SplitForwardError, keys_of
from autockpt.errors import CaptureError, InternalError
from autockpt.torch_private.dynamo import compile_forward, no_breaks, only_varying
from autockpt.torch_private.dynamo_settings import quiet_warnings, tracing_config
from autockpt.torch_private.messages import silence
from autockpt.torch_private.modes import no_autocast
from autockpt.torch_private.pytree import tree_leaves, tree_map
from autockpt.torch_private.refusals import is_compilation_error, root_cause, wrapped
from autockpt.verify.inputs import input_leaves, mapped_inputs
from autockpt.verify.loss import backward_roots, find_loss, foreign_ops
from autockpt.verify.outside import gradients_set_aside


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TracedStep:
    """What tracing gives; see `Capture` for what the fields mean."""

    graphs: tuple[CapturedGraph, ...]
    output_leaf_keys: Keys
    loss_keys: frozenset[int]
    foreign_ops: tuple[str, ...]
    compiled: CompiledForward | None
    split: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepToTrace:
    """What to trace; see `capture` for what the fields mean."""

    module: torch.nn.Module
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    loss_fn: Callable[[Any], torch.Tensor] | None
    positions_are_counted: bool
    pieces: Pieces
    blocks: tuple[str, ...]
    used_outputs: frozenset[int] | None = None


def run_traced_step(step: StepToTrace, fakes: FakeStep) -> TracedStep:
    """Compile the forward with a recording backend, and run it and its backward once on fakes.

    If the forward is one graph, Dynamo traces it as it will run, with the model's own tensors, and
    only the graph runs on fakes. Otherwise tensors between graphs are fakes, so fakes replace the
    model's tensors before Dynamo sees them.

    Args:
        step: What to trace.
        fakes: Its inputs and parameters.

    Raises:
        CaptureError: The forward or the loss cannot be traced.
        FailedBlocks: Some of the blocks cannot.
    """
    split = ""
    if not (step.blocks or fakes.has_no_data):
        try:
            inputs = input_leaves((step.args, step.kwargs))
            with standing_in_for(fakes, step.module), only_varying(inputs):
                traced = _in_one_graph(step, fakes)
            if traced is not None:
                return traced
        except SplitForwardError as error:
            split = error.split
    with running_on(fakes, step.module):
        on_fakes = dataclasses.replace(step, args=fakes.args, kwargs=fakes.kwargs)
        return _traced(on_fakes, split=split)


def _in_one_graph(step: StepToTrace, fakes: FakeStep) -> TracedStep | None:
    """Trace a forward on its own tensors; None if nothing of it is in a graph.

    Raises:
        SplitForwardError: It is not one graph.
    """
    # The step may change containers among its inputs.
    args, kwargs = mapped_inputs(lambda leaf: leaf, (step.args, step.kwargs))
    traced = _traced(dataclasses.replace(step, args=args, kwargs=kwargs), fakes)
    return traced if any(not graph.is_outside for graph in traced.graphs) else None


def _traced(step: StepToTrace, stand_ins: FakeStep | None = None, *, split: str = "") -> TracedStep:
    backend, outside = Backend(), Backend()
    recorder = Recorder(backend, pieces=step.pieces, split=split)
    backend.follower, backend.stand_ins, outside.follower = recorder, stand_ins, recorder
    try:
        return _recorded(step, recorder, backend, outside)
    finally:
        backend.follower = backend.stand_ins = outside.follower = None


def _recorded(
    step: StepToTrace, recorder: Recorder, backend: Backend, outside: Backend
) -> TracedStep:
    stand_ins = backend.stand_ins
    failed: set[str] = set()
    compiled = compile_forward(step.forward, backend.compile)
    if step.blocks:
        by_path = compile_blocks(step.module, step.blocks, backend.compile, failed=failed)
        compiled = functools.partial(run_in_blocks, step.module, step.forward, by_path)
    with (
        tracing_config(eager_answers(positions_are_counted=step.positions_are_counted)),
        quiet_warnings(),
        silence(),
        models_code(type(step.module).__name__, "its forward cannot be traced"),
    ):
        if stand_ins is None:
            output = compiled(*step.args, **step.kwargs)
        else:
            with _split_at_breaks():
                # A forward may return a parameter or an input as it is.
                output = tree_map(stand_ins.of, compiled(*step.args, **step.kwargs))
        if failed:
            raise FailedBlocks(failed)
        held = tree_leaves(output)
        if step.loss_fn is None:
            loss: Any = find_loss(output, None, step.used_outputs)
        else:
            recorder.is_outside = True
            with models_code("loss_fn", "it cannot be traced"):
                loss = compile_forward(step.loss_fn, outside.compile)(output)
        foreign = foreign_ops(loss)
        roots, gradients = backward_roots(loss)
        with gradients_set_aside() as others, no_autocast():
            others.take([root.grad_fn for root in roots], own=())
            torch.autograd.backward(roots, gradients)
    runs = stand_ins is not None
    return TracedStep(
        graphs=recorder.finish(),
        output_leaf_keys=tuple(keys_of(leaf) for leaf in held),
        loss_keys=frozenset(key for leaf in tree_leaves(loss) for key in keys_of(leaf)),
        foreign_ops=foreign,
        split=recorder.split(),
        compiled=CompiledForward(call=compiled, backend=backend) if runs else None,
    )


@contextlib.contextmanager
def _split_at_breaks() -> Iterator[None]:
    """Raise an error instead of splitting the forward.

    Raises:
        SplitForwardError: Dynamo would split it, or cannot trace it at all.
    """
    try:
        with no_breaks():
            yield
    except Exception as error:
        is_dynamos = is_compilation_error(error) and wrapped(error, CaptureError) is None
        if is_dynamos and wrapped(error, InternalError) is None:
            place = place_of(error)
            reason = first_line(root_cause(error))
            raise SplitForwardError(f"{place}: {reason}" if place else "") from error
        raise
