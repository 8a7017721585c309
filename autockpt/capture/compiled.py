"""A graph as AOTAutograd compiles it, with a forward and a backward that can be exchanged later.

Tracing a model takes much longer than rewriting its graph. So a graph is traced once. Whoever
records or plans it then sets what its forward and its backward run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.fx as fx

from autockpt.capture.blame import own_code
from autockpt.capture.fakes import FakeStep
from autockpt.capture.joint import JointGraph, analyze
from autockpt.capture.sums import summed_inputs
from autockpt.capture.tangents import is_tangent
from autockpt.capture.uses import with_uses_apart
from autockpt.torch_private.aot import (
    boxed,
    compile_joint,
    default_partition,
    mark_boxed,
    with_eager_gradients,
)
from autockpt.torch_private.graphs import (
    copied_graph,
    is_sym_node,
    skips_version_check,
    without_code,
)
from autockpt.torch_private.kernels import exact_tracing
from autockpt.verify import device_memory

Boxed = Callable[[list[Any]], Any]
_CANNOT_RUN_AGAIN = (
    "autockpt cannot run the backward of a planned step again. If you go on, it plans the next "
    "step tighter, unless watch=False."
)
Partition = Callable[..., tuple[fx.GraphModule, fx.GraphModule]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JointTemplate:
    """A joint graph as AOTAutograd gave it.

    Attributes:
        module: The graph; it never changes.
        num_fwd_outputs: How many of its outputs belong to the forward.
        static_indices: Primal inputs with a fixed address (parameters and buffers).
        num_tangents: How many gradients its backward takes.
    """

    module: fx.GraphModule
    num_fwd_outputs: int
    static_indices: tuple[int, ...]
    num_tangents: int
    _analyses: dict[frozenset[int], JointGraph] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, joint: fx.GraphModule, num_fwd_outputs: int, **kwargs: Any) -> JointTemplate:
        """Copy what a partition function is given."""
        return cls(
            module=without_code(joint, copied_graph(joint.graph)),
            num_fwd_outputs=num_fwd_outputs,
            static_indices=tuple(kwargs.get("static_lifetime_input_indices") or ()),
            num_tangents=sum(is_tangent(n) for n in joint.graph.find_nodes(op="placeholder")),
        )

    def analyzed(self, absent_tangents: frozenset[int]) -> JointGraph:
        """The graph as later stages read it, if no gradient arrives for these tangents.

        It is analyzed once and must not change; see `copied`.
        """
        if absent_tangents not in self._analyses:
            self._analyses[absent_tangents] = analyze(
                without_code(self.module, copied_graph(self.module.graph)),
                num_fwd_outputs=self.num_fwd_outputs,
                static_indices=self.static_indices,
                absent_tangents=absent_tangents,
            )
        return self._analyses[absent_tangents]


class CompiledGraph:
    """One graph, from AOTAutograd to the calls of a training step.

    Attributes:
        has_backward: Whether it has a backward; without, the graph runs as it is.
        arrivals: See `with_eager_gradients`.
        sums_uses: Whether its backward adds up the gradients of several uses of an input.
        forward: What its forward runs; None runs what it was compiled for.
        backward: What its backward runs; None runs what it was compiled for.
        is_twice: Whether a backward was refused because it was to be differentiated again.
        out_of_memory_at: How many bytes were allocated when a backward ran out of memory; None if
            none has, 0 if that is not known.
    """

    def __init__(self, *, stage: str) -> None:
        """Compile nothing yet.

        Args:
            stage: What autockpt is doing, for errors that report a bug.
        """
        self._stage = stage
        self.has_backward = False
        self.is_twice = False
        self.out_of_memory_at: int | None = None
        self.arrivals: tuple[int, ...] = ()
        self.sums_uses = False
        self.forward: Boxed | None = None
        self.backward: Boxed | None = None
        self._template: JointTemplate | None = None
        self._own: dict[str, Boxed] = {}
        self._takes_others = False

    @property
    def template(self) -> JointTemplate:
        """The graph, once it is traced."""
        assert self._template is not None
        return self._template

    @property
    def is_traced(self) -> bool:
        """Whether AOTAutograd got as far as a graph."""
        return self._template is not None

    def run_own_forward(self, args: list[Any]) -> Any:
        """Run the forward that the graph was compiled for."""
        return self._own["forward"](args)

    def run_own_backward(self, args: list[Any]) -> Any:
        """Run the backward that the graph was compiled for."""
        return self._own["backward"](args)

    @property
    def takes_others(self) -> bool:
        """Whether forward and backward may be exchanged for a pair that saves something else.

        AOTAutograd notes how many sizes, and how many tensors without a version check, the first
        forward saves, and which tensors have sizes that are symbols, but not how many others.
        """
        return self._takes_others or not self.has_backward

    def compile(
        self,
        graph_module: fx.GraphModule,
        example_inputs: list[Any],
        partition: Partition | None = None,
    ) -> Callable[..., Any]:
        """Trace forward and backward of one of Dynamo's graphs.

        Args:
            graph_module: The graph.
            example_inputs: One for every placeholder.
            partition: Cuts the joint graph; `template` is set when it is called. None cuts it as
                AOTAutograd does by default.

        Returns:
            What runs the graph under autograd.
        """

        def cut(joint: fx.GraphModule, inputs: Any, **kwargs: Any) -> Any:
            with own_code(self._stage):
                self._template = JointTemplate.of(joint, **kwargs)
                self.has_backward = True
                self.sums_uses = bool(summed_inputs(joint.graph, self._template.num_fwd_outputs))
                parts = (partition or default_partition)(joint, inputs, **kwargs)
                self._takes_others = _saves_plain_tensors(self._template.module, parts[1])
                return parts

        with own_code(self._stage):
            apart, examples, around = with_uses_apart(graph_module, example_inputs)
        with exact_tracing():
            compiled = compile_joint(
                apart,
                examples,
                partition=cut,
                forward_compiler=self._take_forward,
                backward_compiler=self._take_backward,
                inference_compiler=self._take_inference,
            )
        return with_eager_gradients(around(compiled), lambda: self.arrivals, self._refuse)

    def _refuse(self) -> None:
        self.is_twice = True

    def _take_forward(self, module: fx.GraphModule, _: Any) -> Boxed:
        with own_code(self._stage):
            self._own["forward"] = boxed(module)
        return mark_boxed(self._run_forward)

    def _run_forward(self, args: list[Any]) -> Any:
        return (self.forward or self.run_own_forward)(args)

    def _take_backward(self, module: fx.GraphModule, _: Any) -> Boxed:
        # AOTAutograd may compile a backward only when it first runs.
        with own_code(self._stage):
            self._own["backward"] = boxed(module)
        return mark_boxed(self._run_backward)

    def _run_backward(self, args: list[Any]) -> Any:
        device = next((each.device for each in args if isinstance(each, torch.Tensor)), None)
        try:
            return (self.backward or self.run_own_backward)(args)
        except torch.OutOfMemoryError as error:
            self.out_of_memory_at = 0
            if device is not None and device_memory.has_own_memory(device):
                self.out_of_memory_at = device_memory.usage(device).allocated_bytes
            error.add_note(_CANNOT_RUN_AGAIN)
            raise

    def _take_inference(self, module: fx.GraphModule, example: Any) -> Boxed:
        with own_code(self._stage):
            output = next(iter(module.graph.find_nodes(op="output")))
            self._template = JointTemplate.of(module, len(output.args[0]))
        return self._take_forward(module, example)


def _saves_plain_tensors(joint: fx.GraphModule, backward: fx.GraphModule) -> bool:
    if any(is_sym_node(node) or skips_version_check(node) for node in joint.graph.nodes):
        return False
    inputs = backward.graph.find_nodes(op="placeholder")
    saved = [node.meta.get("val") for node in inputs]
    # The state of a generator has a symbol as its size: torch saves it for a random operation in
    # `torch.utils.checkpoint`.
    return all(
        isinstance(value, torch.Tensor) and all(isinstance(size, int) for size in value.shape)
        for value in saved
    )


class Follower(Protocol):
    """Who decides what the graphs of a forward run."""

    def compile(self, graph_module: fx.GraphModule, example_inputs: list[Any]) -> Any:
        """Compile one of Dynamo's graphs."""


class Backend:
    """A Dynamo backend that compiles each graph as its follower says.

    Dynamo keeps every backend for the rest of the process, so it must lead to no tensor and no
    module.

    Attributes:
        graphs: What it has compiled, in that order.
        follower: Who decides what the graphs run.
        stand_ins: What graphs run on instead of the tensors that they are called with, if anything.
    """

    def __init__(self, follower: Follower | None = None) -> None:
        self.graphs: list[CompiledGraph] = []
        self.follower = follower
        self.stand_ins: FakeStep | None = None

    def compile(self, graph_module: fx.GraphModule, example_inputs: list[Any]) -> Any:
        """Compile one of Dynamo's graphs."""
        assert self.follower is not None
        return self.follower.compile(graph_module, example_inputs)

    def on_stand_ins(self, compiled: Callable[..., Any]) -> Callable[..., Any]:
        """Let a compiled graph run on `stand_ins` for as long as there are any."""

        def run(*args: Any) -> Any:
            fakes = self.stand_ins
            if fakes is None:
                return compiled(*args)
            with fakes.mode:
                return compiled(*map(fakes.of, args))

        return run


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompiledForward:
    """A module's forward as Dynamo has compiled it.

    Attributes:
        call: What runs it.
        backend: What compiles its graphs, and has those that it runs.
    """

    call: Callable[..., Any]
    backend: Backend

    @property
    def sums_uses(self) -> bool:
        """Whether the backward of a graph adds up the gradients of several uses of an input.

        If gradients of another call arrive first, the sum differs from eager's in its last bits.
        """
        return any(graph.sums_uses for graph in self.backend.graphs)

    @property
    def takes_others(self) -> bool:
        """Whether all its graphs may run other plans."""
        return all(graph.takes_others for graph in self.backend.graphs)
