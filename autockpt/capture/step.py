"""A training step as joint graphs, without running anything: everything stands on fake tensors.

The model's parameters and inputs are replaced by fakes, one eager step measures what PyTorch itself
would hold, and one compilation with a recording backend gives a joint forward-and-backward graph
for every graph that Dynamo finds. The order of the graphs, the tensors that pass from one to the
other, and the gradients that really arrive are recorded from that fake step.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from autockpt.capture.blocks import FailedBlocks, compile_blocks, run_in_blocks
from autockpt.capture.captured import Capture, overwritten_keys
from autockpt.capture.fakes import Faker
from autockpt.capture.packed_sequences import PackedSequences, eager_answers
from autockpt.capture.recorder import Recorder, keys_of
from autockpt.errors import CaptureError, NotTrainableError
from autockpt.torch_private.dynamo import compile_forward, root_cause
from autockpt.torch_private.dynamo_settings import quiet_fakes, quiet_warnings, tracing_config
from autockpt.torch_private.fakes import FakeTensorMode
from autockpt.torch_private.kernels import exact_layouts
from autockpt.torch_private.modes import no_autocast
from autockpt.torch_private.modules import reparametrized
from autockpt.torch_private.pytree import tree_leaves, tree_map
from autockpt.verify.held_state import unchanged_attributes
from autockpt.verify.live_bytes import LiveBytes, distinct_bytes
from autockpt.verify.loss import backward_roots, find_loss, foreign_ops, require_gradient
from autockpt.verify.random_state import kept_random_states


def capture(
    module: torch.nn.Module,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    loss_fn: Callable[[Any], torch.Tensor] | None = None,
    accumulates: bool = False,
    in_pieces: bool = False,
    blocks: tuple[str, ...] = (),
) -> Capture:
    """Capture one training step of ``forward``, the forward of ``module``, on these inputs.

    Args:
        module: Left as it was: its parameters are put back, attributes that the fake step changed
            are restored.
        forward: The callable to capture, reading ``module``'s parameters.
        args: Positional inputs, real, fake or meta tensors.
        kwargs: Keyword inputs.
        loss_fn: Takes the output to a scalar loss, when that happens outside of the model.
        accumulates: Whether gradients that parameters have already are added to.
        in_pieces: Cut each graph, see :mod:`autockpt.capture.pieces`.
        blocks: Submodules to capture one by one, instead of the forward as a whole.

    Raises:
        NotTrainableError: Nothing in the output requires a gradient.
        CaptureError: The forward cannot be captured; says where and why.
        FailedBlocks: Some of the blocks cannot.
    """
    if not any(p.requires_grad for p in module.parameters()):
        raise NotTrainableError("no parameter requires grad")
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    to_fake = Faker(mode)
    tensors: dict[str, torch.Tensor] = {}
    tensors |= dict(module.named_parameters(remove_duplicate=False))
    tensors |= dict(module.named_buffers(remove_duplicate=False))
    fakes = {name: to_fake(tensor) for name, tensor in tensors.items()}
    fakes_of = {id(tensor): fakes[name] for name, tensor in tensors.items()}
    fake_args, fake_kwargs = tree_map(to_fake, (args, dict(kwargs)))
    recorder = Recorder(in_pieces=in_pieces)
    failed: set[str] = set()
    packed = PackedSequences(tree_leaves((fake_args, fake_kwargs)))
    with (
        kept_random_states(torch.device("cpu")),
        quiet_fakes(),
        exact_layouts(),
        unchanged_attributes(module),
        reparametrized(module, fakes),
        mode,
    ):
        if accumulates:
            for name, tensor in tensors.items():
                if tensor.grad is not None:
                    fakes[name].grad = torch.empty_like(fakes[name])
        arrivals: list[int] = []
        for fake in fakes.values():
            if fake.requires_grad and fake.is_leaf:
                fake.register_post_accumulate_grad_hook(lambda p: arrivals.extend(keys_of(p)))
        older_gradients = [fake.grad for fake in fakes.values()]
        tracker = LiveBytes(
            tree_leaves((fake_args, fake_kwargs, list(fakes.values()), older_gradients)),
        )
        with (
            _explained(type(module).__name__, "its forward fails on these inputs"),
            unchanged_attributes(module) as attributes,
            packed.watched(),
            tracker,
        ):
            output = forward(*fake_args, **fake_kwargs)
            if attributes.has_drawn_in_python():
                raise CaptureError(
                    where=type(module).__name__,
                    reason="it draws from a random.Random of its own, which would be a constant",
                )
            loss = find_loss(output, loss_fn)
            with no_autocast():
                torch.autograd.backward(*backward_roots(loss))
        require_gradient(loss)
        eager_peak_bytes = tracker.peak_bytes
        gradient_order = tuple(dict.fromkeys(arrivals))
        del output, loss, older_gradients
        for fake in fakes.values():
            fake.grad = None
        with (
            _explained(type(module).__name__, "its forward cannot be traced"),
            tracing_config(eager_answers(positions_are_counted=packed.is_counted)),
            quiet_warnings(),
        ):
            compiled = compile_forward(forward, recorder)
            if blocks:
                by_path = compile_blocks(module, blocks, recorder, failed=failed)
                compiled = functools.partial(run_in_blocks, module, forward, by_path)
            output = compiled(*fake_args, **fake_kwargs)
            if failed:
                raise FailedBlocks(failed)
            held = tree_leaves(output)
            if loss_fn is None:
                loss = find_loss(output, None)
            else:
                recorder.is_outside = True
                with _explained("loss_fn", "it cannot be traced"):
                    loss = compile_forward(loss_fn, recorder)(output)
            foreign = foreign_ops(loss)
            with no_autocast():
                torch.autograd.backward(*backward_roots(loss))
        held_keys = frozenset(key for t in [*held, *tree_leaves(loss)] for key in keys_of(t))
        graphs = recorder.finish()
    if not any(graph.has_backward for graph in graphs):
        raise CaptureError(
            where=type(module).__name__,
            reason="no graph with a backward was found in its forward"
            + (f" (it stays outside: {', '.join(foreign)})" if foreign else ""),
        )
    own = {key for parameter in module.parameters() for key in keys_of(fakes_of[id(parameter)])}
    if own & overwritten_keys(graphs):
        raise CaptureError(
            where=type(module).__name__,
            reason="its forward overwrites a parameter (Embedding with max_norm does), which "
            "the backward could not tell from the value it was computed with",
        )
    parameters = list(module.parameters())
    return Capture(
        graphs=graphs,
        device=_device_of(fakes.values()),
        is_fake=to_fake.saw_no_data,
        parameters_bytes=distinct_bytes(parameters),
        buffers_bytes=distinct_bytes(list(module.buffers())),
        inputs_bytes=distinct_bytes(tree_leaves((args, dict(kwargs)))),
        gradient_bytes=sum(p.numel() * p.element_size() for p in parameters if p.requires_grad),
        parameter_keys=frozenset(own),
        gradient_order=gradient_order,
        held_keys=held_keys,
        eager_peak_bytes=eager_peak_bytes,
        foreign_ops=foreign,
        positions_are_counted=packed.is_counted,
        module_names=frozenset(name for name, _ in module.named_modules() if name),
    )


def _device_of(tensors: Any) -> torch.device:
    for tensor in tensors:
        if tensor.device.type != "cpu":
            device: torch.device = tensor.device
            return device
    return torch.device("cpu")


@contextlib.contextmanager
def _explained(where: str, what: str) -> Iterator[None]:
    try:
        yield
    except (CaptureError, FailedBlocks, NotTrainableError):
        raise
    except Exception as error:
        cause = root_cause(error)
        lines = str(cause).strip().splitlines() or [""]
        raise CaptureError(
            where=where, reason=f"{what}: {type(cause).__name__}: {lines[0]}"
        ) from error
