"""A plan at run time: a Dynamo backend that runs every graph in the order of its plan.

What was not planned still runs right. A graph that is not in the plan runs with nothing recomputed,
with a warning. Gradients that the plan did not expect get a backward of their own.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx

from autockpt.capture.blame import own_code
from autockpt.capture.blocks import compile_blocks, run_in_blocks
from autockpt.capture.joint import JointGraph, analyze
from autockpt.capture.packed_sequences import eager_answers
from autockpt.capture.pieces import compile_in_pieces
from autockpt.capture.tangents import is_tangent
from autockpt.errors import AutockptError, CaptureError
from autockpt.lower.orders import RegionOrder
from autockpt.request import Dimensions
from autockpt.rewrite.align import aligned
from autockpt.rewrite.modules import rewrite
from autockpt.rewrite.unplanned import backward_from_saved
from autockpt.torch_private.aot import (
    boxed,
    compile_joint,
    default_partition,
    mark_boxed,
    with_eager_gradients,
)
from autockpt.torch_private.dynamo import compile_forward, may_vary
from autockpt.torch_private.dynamo_settings import quiet_warnings, tracing_config
from autockpt.torch_private.kernels import exact_tracing
from autockpt.torch_private.pytree import tree_leaves
from autockpt.torch_private.refusals import is_compilation_error, wrapped
from autockpt.user_warnings import warn_user

_MANY_COMPILATIONS = 8  # compilations after which a warning says that steps keep compiling


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRegion:
    """How one captured graph runs: which graph it is, and the order of its ops.

    ``arrivals`` are positions of parameters among its input tensors, in the order in which eager
    autograd completes their gradients.
    """

    fingerprint: str
    signatures: tuple[str, ...]
    absent_tangents: frozenset[int]
    order: RegionOrder
    arrivals: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRegions:
    """All captured graphs of a step, and how they were captured.

    ``varying`` are dimensions of input tensors that may have other sizes than planned for;
    ``blocks`` are submodules that were captured one by one, if the forward was not as a whole.
    """

    regions: tuple[PlannedRegion, ...]
    positions_are_counted: bool
    in_pieces: bool
    varying: Dimensions = frozenset()
    blocks: tuple[str, ...] = ()


class PlannedForward:
    """A forward compiled to follow one plan; call it like the forward."""

    def __init__(
        self,
        module: torch.nn.Module,
        forward: Callable[..., Any],
        planned: PlannedRegions,
        *,
        in_order: bool = False,
    ) -> None:
        """Compile lazily, at the first call.

        Args:
            module: The module.
            forward: Its forward.
            planned: Its plan.
            in_order: Return gradients in eager's order. Data parallelism's buckets depend on it,
                and with them the order of its sums.
        """
        self._varying = planned.varying
        self._backend = _PlanBackend(planned, in_order=in_order)
        self._compiled = compile_forward(forward, self._backend)
        if planned.blocks:
            blocks = compile_blocks(module, planned.blocks, self._backend)
            self._compiled = functools.partial(run_in_blocks, module, forward, blocks)
        self._answers = eager_answers(positions_are_counted=planned.positions_are_counted)

    @property
    def is_stale(self) -> bool:
        """Whether a graph ran that is not in the plan."""
        return self._backend.num_unknown > 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward by its plan."""
        if self._varying:
            leaves = tree_leaves((args, kwargs))
            for leaf, dimension in self._varying:
                may_vary(leaves[leaf], dimension)
        # Any call may compile again, and must see the same settings as the first.
        with tracing_config(self._answers), quiet_warnings():
            try:
                return self._compiled(*args, **kwargs)
            except Exception as error:
                # Dynamo wraps what its backend raises.
                own = wrapped(error, AutockptError) if is_compilation_error(error) else None
                if own is None:
                    raise
                raise own from own.__cause__


class _PlanBackend:
    """A Dynamo backend that rewrites each graph by its region of the plan."""

    def __init__(self, planned: PlannedRegions, *, in_order: bool) -> None:
        self._in_order = in_order
        self._regions = planned.regions
        self._is_exact = not planned.varying
        self._in_pieces = planned.in_pieces
        self._num_compiled = 0
        self.num_unknown = 0
        self._times_compiled: collections.Counter[str] = collections.Counter()

    def __call__(self, graph_module: fx.GraphModule, example_inputs: list[Any]) -> Any:
        if self._in_pieces:
            return compile_in_pieces(graph_module, example_inputs, self._compile)
        return self._compile(graph_module, example_inputs)

    def _compile(self, graph_module: fx.GraphModule, example_inputs: list[Any]) -> Any:
        region = _CompiledRegion(self)
        with exact_tracing():
            compiled = compile_joint(
                graph_module,
                example_inputs,
                partition=region.partition,
                forward_compiler=lambda module, _: boxed(module),
                backward_compiler=region.compile_backward,
                inference_compiler=lambda module, _: boxed(module),
            )
        arrivals = region.arrivals if self._in_order else ()
        return with_eager_gradients(compiled, arrivals)

    def match(
        self, analyze_with: Callable[[frozenset[int]], JointGraph], num_tangents: int
    ) -> tuple[PlannedRegion, JointGraph] | None:
        """Find the planned region of a graph, with its analysis; try the next in line first."""
        count = len(self._regions)
        analyses: dict[frozenset[int], JointGraph] = {}
        for offset in range(count):
            number = (self._num_compiled + offset) % count
            region = self._regions[number]
            absent = region.absent_tangents
            if max(absent, default=-1) >= num_tangents:
                continue
            if absent not in analyses:
                analyses[absent] = analyze_with(absent)
            order = self._order(region, analyses[absent])
            if order is not None:
                self._num_compiled = number + 1
                self._count(region)
                return dataclasses.replace(region, order=order), analyses[absent]
        self.num_unknown += 1
        return None

    def _order(self, region: PlannedRegion, joint: JointGraph) -> RegionOrder | None:
        """The region's order for this graph; None if the graph is not the region's."""
        if joint.fingerprint == region.fingerprint:
            return region.order
        return None if self._is_exact else aligned(region.order, region.signatures, joint)

    def _count(self, region: PlannedRegion) -> None:
        self._times_compiled[region.fingerprint] += 1
        most = self._regions.count(region) * _MANY_COMPILATIONS
        if self._times_compiled[region.fingerprint] == most:
            warn_user(
                f"a graph of the model was compiled {most} times for one plan: Python state that "
                "its forward reads, such as a step counter, changes from call to call. Keep such "
                "state in a tensor (a buffer) or outside of the forward: compiling takes time in "
                "every step."
            )


class _CompiledRegion:
    """One graph on its way through AOTAutograd, and its backward at run time."""

    def __init__(self, backend: _PlanBackend) -> None:
        self._backend = backend
        self._template: fx.GraphModule | None = None
        self._static_indices: tuple[int, ...] = ()
        self._num_fwd_outputs = 0
        self._expected: frozenset[int] = frozenset()
        self.arrivals: tuple[int, ...] = ()
        self._saved_names: list[str] = []
        self._num_tangents = 0
        self._others: dict[frozenset[int], Callable[[list[Any]], Any]] = {}

    @own_code("rewrite")
    def partition(
        self, joint: fx.GraphModule, inputs: Any, *, num_fwd_outputs: int, **kwargs: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        self._template = fx.GraphModule(joint, copy.deepcopy(joint.graph))
        self._num_fwd_outputs = num_fwd_outputs
        self._static_indices = tuple(kwargs.get("static_lifetime_input_indices") or ())
        num_tangents = sum(is_tangent(n) for n in joint.graph.find_nodes(op="placeholder"))
        found = self._backend.match(self._analyzed, num_tangents)
        if found is None:
            warn_user(
                "a graph of the model is not in its plan (its code took another path than when "
                "it was planned); it runs with nothing recomputed, so the budget may be exceeded"
            )
            forward, backward = default_partition(
                joint, inputs, num_fwd_outputs=num_fwd_outputs, **kwargs
            )
        else:
            region, analysis = found
            self._expected = region.absent_tangents
            self.arrivals = region.arrivals
            forward, backward = rewrite(analysis, region.order)
        names = [node.name for node in backward.graph.find_nodes(op="placeholder")]
        self._num_tangents = sum("tangents" in name for name in names)
        self._saved_names = names[: len(names) - self._num_tangents]
        return forward, backward

    @own_code("rewrite")
    def compile_backward(self, module: fx.GraphModule, _: Any) -> Any:
        planned = boxed(module)
        expected = self._expected

        def backward(args: list[Any]) -> Any:
            tangents = args[len(args) - self._num_tangents :]
            absent = frozenset(i for i, tangent in enumerate(tangents) if tangent is None)
            del tangents
            if absent == expected:
                return planned(args)
            return self._other_backward(absent)(args)

        return mark_boxed(backward)

    def _analyzed(self, absent: frozenset[int]) -> JointGraph:
        assert self._template is not None
        return analyze(
            fx.GraphModule(self._template, copy.deepcopy(self._template.graph)),
            num_fwd_outputs=self._num_fwd_outputs,
            static_indices=self._static_indices,
            absent_tangents=absent,
        )

    @own_code("rewrite")
    def _other_backward(self, absent: frozenset[int]) -> Callable[[list[Any]], Any]:
        if absent not in self._others:
            try:
                with quiet_warnings():
                    module = backward_from_saved(self._analyzed(absent), self._saved_names)
            except LookupError as error:
                raise CaptureError(
                    where="a backward that the plan did not expect",
                    reason=f"gradients arrive for other outputs than planned, and {error} was not "
                    "saved for them",
                    advice="Pass loss_fn=... so that the plan sees the loss that is used.",
                ) from error
            self._others[absent] = boxed(module)
        return self._others[absent]
