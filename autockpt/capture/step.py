"""Capture a training step as joint graphs without running anything: it uses fake tensors only.

Fakes replace the model's parameters and inputs. One eager step measures what PyTorch itself would
keep. One compilation with a recording backend gives a joint forward-and-backward graph for every
graph that Dynamo finds, their order, and the tensors and gradients that pass between them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autockpt.capture.captured import Capture, overwritten_keys
from autockpt.capture.dispatched import StepRecorder
from autockpt.capture.eager_step import EagerStep, run_eager_step
from autockpt.capture.fakes import FakeStep, fake_step, running_on
from autockpt.capture.packed_sequences import PackedSequences
from autockpt.capture.pieces import Pieces
from autockpt.capture.recorder import keys_of
from autockpt.capture.traced_step import StepToTrace, TracedStep, run_traced_step
from autockpt.devices.device import ALLOCATION_BYTES, Device
from autockpt.errors import CaptureError, NotTrainableError, internal_errors
from autockpt.loop import PLAIN, Loop
from autockpt.torch_private.cuda_kernels import eager_for, tracing_for
from autockpt.verify.inputs import input_leaves, plain_inputs
from autockpt.verify.live_bytes import distinct_bytes, rounded_up
from autockpt.verify.loss import trained_tensors
from autockpt.verify.step import loss_kept


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """A step that was traced, the fakes that it was traced with, and those that are plain."""

    fakes: FakeStep
    plain: dict[int, torch.Tensor]
    traced: TracedStep


@dataclasses.dataclass(slots=True, eq=False)
class TraceMemo:
    """The trace of one call as a whole, once there is one that can also run."""

    trace: Trace | None = None


@internal_errors("capture")
def capture(
    module: torch.nn.Module,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    loss_fn: Callable[[Any], torch.Tensor] | None = None,
    loop: Loop = PLAIN,
    pieces: Pieces = "",
    blocks: tuple[str, ...] = (),
    memo: TraceMemo | None = None,
    target: Device | None = None,
) -> Capture:
    """Capture one training step of `forward`, the forward of `module`, on these inputs.

    Args:
        module: Left as it was: its parameters are put back, and attributes that the step on fakes
            changes are restored.
        forward: The callable to capture; it reads the parameters of `module`.
        args: Positional inputs: real, fake or meta tensors.
        kwargs: Keyword inputs.
        loss_fn: Turns the output into a scalar loss, if that happens outside of the model.
        loop: What the training loop does around a call. One call is captured, however many share
            a backward.
        pieces: Where to cut each graph; see :mod:`autockpt.capture.pieces`.
        blocks: Submodules to capture one by one, instead of the forward as a whole.
        memo: Has the trace of the same call if it was captured before, for another loop.
        target: A device that is not here, whose operators to trace; nothing of the step can run.

    Raises:
        NotTrainableError: Nothing in the output requires a gradient.
        CaptureError: The forward cannot be captured; the error says where and why.
        FailedBlocks: Some of the blocks cannot be captured.
        InternalError: autockpt has a bug.
    """
    if not trained_tensors(module, (args, dict(kwargs))):
        raise NotTrainableError("no parameter requires grad, and no input does")
    # From here on they are plain: their types are put back around the graphs.
    in_name_only, (args, kwargs) = plain_inputs((args, dict(kwargs)))
    known = None if memo is None else memo.trace
    if known is None:
        fakes = fake_step(module, args, kwargs, accumulates=loop.accumulates)
        if target is not None:
            fakes = dataclasses.replace(fakes, has_no_data=True)
        plain = {
            number: fakes.of(leaf)
            for number, leaf in enumerate(input_leaves((args, kwargs)))
            if number in in_name_only
        }
    else:
        fakes, plain = known.fakes, known.plain
    packed = PackedSequences(input_leaves((fakes.args, fakes.kwargs)))
    unit_bytes = 1
    if _device_of(fakes).type == "cuda" or (target is not None and target.is_accelerator):
        unit_bytes = ALLOCATION_BYTES
    run_eagerly = functools.partial(
        run_eager_step,
        module,
        forward,
        fakes,
        packed,
        loss_fn=loss_fn,
        plain=plain,
        unit_bytes=unit_bytes,
    )
    parameter_keys = _parameter_keys(module, fakes)
    if target is not None:
        with loss_kept(loss_fn), tracing_for(target), eager_for(target), running_on(fakes, module):
            eager, traced, parameter_keys = _recorded(module, fakes, run_eagerly, loop)
    else:
        with loss_kept(loss_fn), running_on(fakes, module):
            eager = run_eagerly(loop=loop)
        if known is None:
            step = StepToTrace(
                module=module,
                forward=forward,
                args=args,
                kwargs=dict(kwargs),
                loss_fn=loss_fn,
                positions_are_counted=packed.is_counted,
                pieces=pieces,
                blocks=blocks,
                used_outputs=loop.used_outputs,
            )
            with loss_kept(loss_fn):
                traced = run_traced_step(step, fakes)
            if memo is not None and traced.compiled is not None:
                memo.trace = Trace(fakes=fakes.without_data(), plain=plain, traced=traced)
        else:
            traced = known.traced
    _check_graphs(module, traced, parameter_keys)
    parameters = list(module.parameters())
    return Capture(
        graphs=traced.graphs,
        device=_device_of(fakes),
        target=target,
        is_fake=fakes.has_no_data,
        parameters_bytes=distinct_bytes(parameters, unit_bytes=unit_bytes),
        buffers_bytes=distinct_bytes(list(module.buffers()), unit_bytes=unit_bytes),
        inputs_bytes=distinct_bytes(input_leaves((args, dict(kwargs))), unit_bytes=unit_bytes),
        gradient_bytes=sum(
            rounded_up(p.numel() * p.element_size(), unit_bytes)
            for p in parameters
            if p.requires_grad
        ),
        parameter_keys=parameter_keys,
        gradient_order=eager.gradient_order,
        output_leaf_keys=traced.output_leaf_keys,
        loss_keys=traced.loss_keys,
        eager_peak_bytes=eager.peak_bytes,
        foreign_ops=traced.foreign_ops,
        positions_are_counted=packed.is_counted,
        module_names=frozenset(name for name, _ in module.named_modules() if name),
        compiled=traced.compiled,
        split=traced.split,
        output_types=eager.output_types if in_name_only else None,
    )


def _recorded(
    module: torch.nn.Module,
    fakes: FakeStep,
    run_eagerly: Callable[..., EagerStep],
    loop: Loop,
) -> tuple[EagerStep, TracedStep, frozenset[int]]:
    """Run the step once and record it; for another loop, run that too.

    Returns:
        What the eager step shows, the recorded one, and the keys of the parameters.
    """
    inputs = [t for t in input_leaves((fakes.args, fakes.kwargs)) if isinstance(t, torch.Tensor)]
    recorder = StepRecorder(module, [*fakes.tensors.values(), *inputs])
    eager = run_eagerly(loop=dataclasses.replace(loop, accumulates=False), recorder=recorder)
    if loop.accumulates:
        eager = run_eagerly(loop=loop)
    names = (name for name, _ in module.named_parameters(remove_duplicate=False))
    keys = frozenset(key for name in names for key in recorder.keys_of(fakes.tensors[name]))
    return eager, recorder.finish(), keys


def _parameter_keys(module: torch.nn.Module, fakes: FakeStep) -> frozenset[int]:
    names = (name for name, _ in module.named_parameters(remove_duplicate=False))
    return frozenset(key for name in names for key in keys_of(fakes.tensors[name]))


def _check_graphs(
    module: torch.nn.Module, traced: TracedStep, parameter_keys: frozenset[int]
) -> None:
    """Check that there is something to plan, and that it can be recomputed at all.

    Raises:
        CaptureError: There is no backward, or the forward overwrites a parameter.
    """
    name = type(module).__name__
    if not any(graph.has_backward for graph in traced.graphs):
        foreign = ", ".join(traced.foreign_ops)
        outside = f" (it stays outside: {foreign})" if foreign else ""
        reason = f"no graph with a backward was found in its forward{outside}"
        if traced.split:
            reason = f"Dynamo leaves its forward to Python at {traced.split}"
        raise CaptureError(where=name, reason=reason)
    if parameter_keys & overwritten_keys(traced.graphs):
        raise CaptureError(
            where=name,
            reason="its forward overwrites a parameter (Embedding with max_norm does), and "
            "the backward cannot tell it from the value that the forward used",
        )


def _device_of(fakes: FakeStep) -> torch.device:
    """The accelerator that the model is on, or the CPU."""
    for tensor in fakes.tensors.values():
        if tensor.device.type != "cpu":
            return tensor.device
    return torch.device("cpu")
