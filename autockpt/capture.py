"""A training step as joint graphs, without running anything: everything stands on fake tensors.

The model's parameters and inputs are replaced by fakes, one eager step measures what PyTorch itself
would hold, and one compilation with a recording backend gives a joint forward-and-backward graph
for every graph that Dynamo finds. The order of the graphs, the tensors that pass from one to the
other, and the gradients that really arrive are recorded from that fake step.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.fx as fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from autockpt import dynamo_settings, torch_private
from autockpt.blocks import FailedBlocks, compile_blocks, run_in_blocks
from autockpt.captured import Capture, CapturedGraph, Keys, overwritten_keys
from autockpt.errors import CaptureError, NotTrainableError
from autockpt.exact import exact_layouts, exact_tracing
from autockpt.fakes import Faker, LiveBytes, distinct_bytes
from autockpt.held_state import unchanged_attributes
from autockpt.joint import JointGraph, analyze
from autockpt.library_paths import PackedSequences, eager_answers
from autockpt.loss import backward_roots, find_loss, foreign_ops, require_gradient
from autockpt.pieces import compile_in_pieces
from autockpt.random_state import kept_random_states


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
        in_pieces: Cut each graph, see :mod:`autockpt.pieces`.
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
    recorder = _Recorder(in_pieces=in_pieces)
    failed: set[str] = set()
    packed = PackedSequences(tree_leaves((fake_args, fake_kwargs)))
    with (
        kept_random_states(torch.device("cpu")),
        dynamo_settings.quiet_fakes(),
        exact_layouts(),
        unchanged_attributes(module),
        torch_private.reparametrized(module, fakes),
        mode,
    ):
        if accumulates:
            for name, tensor in tensors.items():
                if tensor.grad is not None:
                    fakes[name].grad = torch.empty_like(fakes[name])
        arrivals: list[int] = []
        for fake in fakes.values():
            if fake.requires_grad and fake.is_leaf:
                fake.register_post_accumulate_grad_hook(lambda p: arrivals.extend(_keys_of(p)))
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
            with torch_private.no_autocast():
                torch.autograd.backward(*backward_roots(loss))
        require_gradient(loss)
        eager_peak_bytes = tracker.peak_bytes
        gradient_order = tuple(dict.fromkeys(arrivals))
        del output, loss, older_gradients
        for fake in fakes.values():
            fake.grad = None
        with (
            _explained(type(module).__name__, "its forward cannot be traced"),
            dynamo_settings.tracing_config(eager_answers(positions_are_counted=packed.is_counted)),
            dynamo_settings.quiet_warnings(),
        ):
            compiled = torch_private.compile_forward(forward, recorder)
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
                    loss = torch_private.compile_forward(loss_fn, recorder)(output)
            foreign = foreign_ops(loss)
            with torch_private.no_autocast():
                torch.autograd.backward(*backward_roots(loss))
        held_keys = frozenset(key for t in [*held, *tree_leaves(loss)] for key in _keys_of(t))
        graphs = recorder.finish()
    if not any(graph.has_backward for graph in graphs):
        raise CaptureError(
            where=type(module).__name__,
            reason="no graph with a backward was found in its forward"
            + (f" (it stays outside: {', '.join(foreign)})" if foreign else ""),
        )
    own = {key for parameter in module.parameters() for key in _keys_of(fakes_of[id(parameter)])}
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


class _Recorder:
    """A Dynamo backend that runs graphs as they are and keeps their joint graphs."""

    def __init__(self, *, in_pieces: bool) -> None:
        self.is_outside = False
        self._in_pieces = in_pieces
        self._num_frames = 0
        self._records: list[_Record] = []

    def __call__(self, graph_module: fx.GraphModule, example_inputs: list[Any]) -> Any:
        self._num_frames += 1
        if self._in_pieces:
            return compile_in_pieces(graph_module, example_inputs, self._compile)
        return self._compile(graph_module, example_inputs)

    def _compile(self, graph_module: fx.GraphModule, example_inputs: list[Any]) -> Any:
        record = _Record(is_outside=self.is_outside, frame=self._num_frames)
        self._records.append(record)
        with exact_tracing():
            compiled = torch_private.compile_joint(
                graph_module,
                example_inputs,
                partition=record.partition,
                forward_compiler=record.compile_forward,
                backward_compiler=record.compile_backward,
                inference_compiler=record.compile_inference,
            )
        return torch_private.with_eager_gradients(compiled)

    def finish(self) -> tuple[CapturedGraph, ...]:
        return tuple(graph for record in self._records for graph in record.finish())


class _Record:
    """What is seen of one graph while it runs on fakes."""

    def __init__(self, *, is_outside: bool, frame: int) -> None:
        self._is_outside = is_outside
        self._frame = frame
        self._template: fx.GraphModule | None = None
        self._num_fwd_outputs = 0
        self._static_indices: tuple[int, ...] = ()
        self._num_tangents = 0
        self._joint: JointGraph | None = None
        self._input_keys: Keys = ()
        self._output_keys: Keys = ()
        self._tangent_keys: Keys = ()
        self._grad_keys: Keys = ()
        self._has_run = False
        self._has_backward = False
        self._alive: list[Any] = []

    def partition(
        self, joint: fx.GraphModule, inputs: Any, *, num_fwd_outputs: int, **kwargs: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        self._template = fx.GraphModule(joint, copy.deepcopy(joint.graph))
        self._num_fwd_outputs = num_fwd_outputs
        self._static_indices = tuple(kwargs.get("static_lifetime_input_indices") or ())
        self._num_tangents = sum(
            "tangents" in str(node.target) for node in joint.graph.find_nodes(op="placeholder")
        )
        return torch_private.default_partition(
            joint, inputs, num_fwd_outputs=num_fwd_outputs, **kwargs
        )

    def _analyzed(self, absent: frozenset[int]) -> JointGraph:
        assert self._template is not None
        return analyze(
            fx.GraphModule(self._template, copy.deepcopy(self._template.graph)),
            num_fwd_outputs=self._num_fwd_outputs,
            static_indices=self._static_indices,
            absent_tangents=absent,
        )

    def compile_forward(self, graph_module: fx.GraphModule, _: Any) -> Any:
        run = torch_private.boxed(graph_module)

        def forward(args: list[Any]) -> Any:
            if self._has_run:
                raise CaptureError(
                    where="a loop in the forward",
                    reason="one graph runs several times in a step, and cannot have several plans",
                )
            self._has_run = True
            self._input_keys = tuple(_keys_of(arg) for arg in args)
            self._alive.extend(args)
            outputs = run(args)
            self._alive.extend(outputs)
            self._output_keys = tuple(_keys_of(o) for o in outputs[: self._num_fwd_outputs])
            return outputs

        return torch_private.mark_boxed(forward)

    def compile_inference(self, graph_module: fx.GraphModule, example: Any) -> Any:
        self._template = fx.GraphModule(graph_module, copy.deepcopy(graph_module.graph))
        output = next(iter(graph_module.graph.find_nodes(op="output")))
        self._num_fwd_outputs = len(output.args[0])
        return self.compile_forward(graph_module, example)

    def compile_backward(self, graph_module: fx.GraphModule, _: Any) -> Any:
        def backward(args: list[Any]) -> Any:
            tangents = args[len(args) - self._num_tangents :]
            self._alive.extend(args)
            args.clear()
            self._has_backward = True
            self._tangent_keys = tuple(_keys_of(tangent) for tangent in tangents)
            absent = frozenset(i for i, tangent in enumerate(tangents) if tangent is None)
            self._joint = self._analyzed(absent)
            output = next(iter(self._joint.module.graph.find_nodes(op="output")))
            grads = [
                torch.empty_like(o.meta["val"]) if isinstance(o, fx.Node) else None
                for o in output.args[0][self._num_fwd_outputs :]
            ]
            self._alive.extend(grads)
            self._grad_keys = tuple(_keys_of(grad) for grad in grads)
            return grads

        return torch_private.mark_boxed(backward)

    def finish(self) -> list[CapturedGraph]:
        if self._template is None:
            return []
        if self._joint is None:
            self._joint = self._analyzed(frozenset(range(self._num_tangents)))
        return [
            CapturedGraph(
                joint=self._joint,
                has_backward=self._has_backward,
                is_outside=self._is_outside,
                frame=self._frame,
                input_keys=self._input_keys,
                output_keys=self._output_keys,
                tangent_keys=self._tangent_keys,
                grad_keys=self._grad_keys,
            )
        ]


def _keys_of(value: Any) -> tuple[int, ...]:
    return (value.untyped_storage()._cdata,) if isinstance(value, torch.Tensor) else ()


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
        cause = torch_private.root_cause(error)
        lines = str(cause).strip().splitlines() or [""]
        raise CaptureError(
            where=where, reason=f"{what}: {type(cause).__name__}: {lines[0]}"
        ) from error
