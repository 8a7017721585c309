"""A Dynamo backend that records the joint graphs of a step while it runs on fake tensors.

AOTAutograd calls what is marked as `own_code`, in the middle of tracing the model.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.fx as fx

from autockpt.capture.blame import own_code
from autockpt.capture.captured import CapturedGraph, Keys
from autockpt.capture.joint import JointGraph, analyze
from autockpt.capture.pieces import compile_in_pieces
from autockpt.errors import CaptureError
from autockpt.torch_private.aot import (
    boxed,
    compile_joint,
    default_partition,
    mark_boxed,
    with_eager_gradients,
)
from autockpt.torch_private.kernels import exact_tracing
from autockpt.torch_private.tensors import storage_key


class Recorder:
    """A Dynamo backend that runs graphs unchanged and records their joint graphs.

    Attributes:
        is_outside: Whether the graphs that come next belong to code outside of the model.
    """

    def __init__(self, *, in_pieces: bool) -> None:
        self.is_outside = False
        self._in_pieces = in_pieces
        self._num_frames = 0
        self._records: list[_Record] = []

    def __call__(self, graph_module: fx.GraphModule, example_inputs: list[Any]) -> Any:
        """Compile one of Dynamo's graphs to run unchanged, and record it."""
        self._num_frames += 1
        if self._in_pieces:
            return compile_in_pieces(graph_module, example_inputs, self._compile)
        return self._compile(graph_module, example_inputs)

    def _compile(self, graph_module: fx.GraphModule, example_inputs: list[Any]) -> Any:
        record = _Record(is_outside=self.is_outside, frame=self._num_frames)
        self._records.append(record)
        with exact_tracing():
            compiled = compile_joint(
                graph_module,
                example_inputs,
                partition=record.partition,
                forward_compiler=record.compile_forward,
                backward_compiler=record.compile_backward,
                inference_compiler=record.compile_inference,
            )
        return with_eager_gradients(compiled)

    def finish(self) -> tuple[CapturedGraph, ...]:
        """Return the recorded graphs, in the order in which they were compiled."""
        return tuple(graph for record in self._records for graph in record.finish())


class _Record:
    """What one graph shows while it runs on fakes."""

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

    @own_code("capture")
    def partition(
        self, joint: fx.GraphModule, inputs: Any, *, num_fwd_outputs: int, **kwargs: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        self._template = fx.GraphModule(joint, copy.deepcopy(joint.graph))
        self._num_fwd_outputs = num_fwd_outputs
        self._static_indices = tuple(kwargs.get("static_lifetime_input_indices") or ())
        self._num_tangents = sum(
            "tangents" in str(node.target) for node in joint.graph.find_nodes(op="placeholder")
        )
        return default_partition(joint, inputs, num_fwd_outputs=num_fwd_outputs, **kwargs)

    def _analyzed(self, absent: frozenset[int]) -> JointGraph:
        assert self._template is not None
        return analyze(
            fx.GraphModule(self._template, copy.deepcopy(self._template.graph)),
            num_fwd_outputs=self._num_fwd_outputs,
            static_indices=self._static_indices,
            absent_tangents=absent,
        )

    @own_code("capture")
    def compile_forward(self, graph_module: fx.GraphModule, _: Any) -> Any:
        run = boxed(graph_module)

        def forward(args: list[Any]) -> Any:
            if self._has_run:
                raise CaptureError(
                    where="a loop in the forward",
                    reason="one graph runs several times in a step, and cannot have several plans",
                )
            self._has_run = True
            self._input_keys = tuple(keys_of(arg) for arg in args)
            self._alive.extend(args)
            outputs = run(args)
            self._alive.extend(outputs)
            self._output_keys = tuple(keys_of(o) for o in outputs[: self._num_fwd_outputs])
            return outputs

        return mark_boxed(forward)

    @own_code("capture")
    def compile_inference(self, graph_module: fx.GraphModule, example: Any) -> Any:
        self._template = fx.GraphModule(graph_module, copy.deepcopy(graph_module.graph))
        output = next(iter(graph_module.graph.find_nodes(op="output")))
        self._num_fwd_outputs = len(output.args[0])
        return self.compile_forward(graph_module, example)

    def compile_backward(self, graph_module: fx.GraphModule, _: Any) -> Any:
        @own_code("capture")
        def backward(args: list[Any]) -> Any:
            tangents = args[len(args) - self._num_tangents :]
            self._alive.extend(args)
            args.clear()
            self._has_backward = True
            self._tangent_keys = tuple(keys_of(tangent) for tangent in tangents)
            absent = frozenset(i for i, tangent in enumerate(tangents) if tangent is None)
            self._joint = self._analyzed(absent)
            output = next(iter(self._joint.module.graph.find_nodes(op="output")))
            grads = [
                torch.empty_like(o.meta["val"]) if isinstance(o, fx.Node) else None
                for o in output.args[0][self._num_fwd_outputs :]
            ]
            self._alive.extend(grads)
            self._grad_keys = tuple(keys_of(grad) for grad in grads)
            return grads

        return mark_boxed(backward)

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


def keys_of(value: Any) -> tuple[int, ...]:
    """Return the key of a tensor's storage as a 1-tuple; an empty tuple for anything else."""
    return (storage_key(value),) if isinstance(value, torch.Tensor) else ()
