"""A plan at run time: a Dynamo backend that runs every graph in the order of its plan.

What was not planned still runs right. A graph that is not in the plan runs with nothing recomputed,
with a warning. Gradients that the plan did not expect get a backward of their own.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.fx as fx

from autockpt.capture.blame import own_code
from autockpt.capture.blocks import compile_blocks, run_in_blocks
from autockpt.capture.compiled import Backend, CompiledForward, CompiledGraph, JointTemplate
from autockpt.capture.joint import JointGraph, copied, summed_storages
from autockpt.capture.packed_sequences import eager_answers
from autockpt.capture.pieces import compile_in_pieces
from autockpt.errors import AutockptError, CaptureError
from autockpt.lower.orders import RegionOrder
from autockpt.rewrite.align import aligned
from autockpt.rewrite.modules import rewrite
from autockpt.rewrite.regions import PlannedRegion, PlannedRegions
from autockpt.rewrite.unplanned import backward_from_saved
from autockpt.torch_private.aot import boxed, default_partition
from autockpt.torch_private.dynamo import (
    changed_since,
    compile_forward,
    guard_failures,
    no_breaks,
    only_varying,
)
from autockpt.torch_private.dynamo_settings import quiet_warnings, tracing_config
from autockpt.torch_private.graphs import copied_graph
from autockpt.torch_private.kernels import exact_tracing
from autockpt.torch_private.messages import is_silent
from autockpt.torch_private.modes import no_autocast
from autockpt.torch_private.pytree import tree_flatten, tree_unflatten
from autockpt.torch_private.refusals import is_compilation_error, wrapped
from autockpt.user_warnings import warn_user
from autockpt.verify.inputs import input_leaves, plain_inputs

# Calls in a row that compile, after which a value must be left open, or no plan of graphs can hold.
_MANY_IN_A_ROW = 3
_MANY_COMPILATIONS = 8  # compilations after which a warning says that steps keep compiling


class OtherGraphError(AutockptError):
    """The first call of a forward that was not tried needs another graph than its plan has."""

    def __init__(self) -> None:
        super().__init__("a graph of the model is not in its plan")


class PlannedForward:
    """A forward compiled to follow one plan; call it like the forward.

    If nothing has shown yet that the step runs the plan's one graph, the first call raises
    `OtherGraphError` before anything runs if it does not.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        forward: Callable[..., Any],
        planned: PlannedRegions,
        *,
        in_order: bool = False,
        compiled: CompiledForward | None = None,
        is_untried: bool = False,
    ) -> None:
        """Compile lazily, at the first call, unless it is compiled already.

        Args:
            module: The module.
            forward: Its forward.
            planned: Its plan.
            in_order: Return gradients in eager's order. Data parallelism's buckets depend on it,
                and with them the order of its sums.
            compiled: The forward as it was compiled for the capture, or for another plan of the
                same graphs. It follows this plan from now on, and the other one no longer.
            is_untried: Whether nothing has shown yet that the step runs the plan's one graph.
        """
        self._is_untried = is_untried
        self._module = module
        self._forward = forward
        self._planned = planned
        self._in_order = in_order
        if compiled is None or not planned.is_exact or not compiled.takes_others:
            compiled = None
        self._follow(compiled or self._newly_compiled())
        self._answers = eager_answers(positions_are_counted=planned.positions_are_counted)
        self._num_in_a_row = 0
        self._failures = guard_failures()
        self._changing = ""
        self._accepts_changes = False

    @property
    def is_stale(self) -> bool:
        """Whether a graph ran that is not in the plan, or the plan cannot serve its backward."""
        return self._graphs.num_unknown > 0 or self.is_twice

    @property
    def num_other_backwards(self) -> int:
        """How often gradients came for other outputs than planned; such a backward is unplanned."""
        return self._graphs.num_other_backwards

    @property
    def is_twice(self) -> bool:
        """Whether a backward was to be differentiated again, which no graph can be."""
        return any(graph.is_twice for graph in self._compiled.backend.graphs)

    @property
    def out_of_memory_at(self) -> int | None:
        """What was allocated when a backward ran out of memory, 0 if unknown; None if none has."""
        at = [graph.out_of_memory_at for graph in self._compiled.backend.graphs]
        return next((num_bytes for num_bytes in at if num_bytes is not None), None)

    @property
    def changing(self) -> str:
        """What changes at every call, so that every call compiles anew; empty if nothing does.

        Two paths that come back get two compiled graphs under one plan.
        """
        is_many = self._num_in_a_row >= _MANY_IN_A_ROW
        return self._changing if is_many and not self._accepts_changes else ""

    def accept_changes(self) -> None:
        """Compile at every call, as nothing else helps."""
        self._accepts_changes = self._graphs.is_quiet = True

    @property
    def compiled(self) -> CompiledForward:
        """What other plans of the same graphs can run on, instead of this one."""
        return self._compiled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward by its plan."""
        types = self._planned.output_types
        if types is None:
            return self._run(args, kwargs)
        leaves = input_leaves((args, kwargs))
        args, kwargs = plain_inputs((args, kwargs))[1]
        outputs, structure = tree_flatten(self._run(args, kwargs))
        for number, of_input in types:
            outputs[number] = outputs[number].as_subclass(type(leaves[of_input]))
        return tree_unflatten(outputs, structure)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._compiled.backend.follower is not self._graphs:
            self._follow(self._newly_compiled())
        num_compilations = self._graphs.num_compilations
        # Any call may compile again, and must see the same settings as the first.
        with (
            tracing_config(self._answers, numbers_vary=self._planned.numbers_vary),
            quiet_warnings(),
            only_varying(input_leaves((args, kwargs)), self._planned.varying),
            self._watching(num_compilations),
        ):
            try:
                return (
                    self._tried(*args, **kwargs)
                    if self._is_untried
                    else self._call(*args, **kwargs)
                )
            except Exception as error:
                # Dynamo wraps what its backend raises.
                own = wrapped(error, AutockptError) if is_compilation_error(error) else None
                if own is None:
                    raise
                raise own from own.__cause__

    @contextlib.contextmanager
    def _watching(self, num_compilations: int) -> Iterator[None]:
        """See whether a call of yours compiles, as those before it did."""
        yield
        if is_silent():
            return
        if self._graphs.num_compilations == num_compilations:
            self._num_in_a_row = 0
            return
        self._num_in_a_row += 1
        guard, place = changed_since(self._failures)
        self._failures = guard_failures()
        at = f" ({place})" if place else ""
        self._changing = f"{guard or 'what its forward reads'} changes at every call{at}"

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        return self._compiled.call(*args, **kwargs)

    def _tried(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward if it is the one graph of the plan.

        Raises:
            OtherGraphError: It is not; nothing has run.
        """
        self._graphs.must_match = True
        try:
            with no_breaks():
                output = self._call(*args, **kwargs)
        except Exception as error:
            if is_compilation_error(error) and wrapped(error, AutockptError) is None:
                raise OtherGraphError from error
            raise
        finally:
            self._graphs.must_match = False
        self._is_untried = False
        return output

    def _newly_compiled(self) -> CompiledForward:
        backend = Backend()
        call = compile_forward(
            self._forward, backend.compile, numbers_vary=self._planned.numbers_vary
        )
        if self._planned.blocks:
            blocks = compile_blocks(self._module, self._planned.blocks, backend.compile)
            call = functools.partial(run_in_blocks, self._module, self._forward, blocks)
        return CompiledForward(call=call, backend=backend)

    def _follow(self, compiled: CompiledForward) -> None:
        """Set what a compiled forward runs, now and for graphs that it compiles later."""
        self._compiled = compiled
        graphs = compiled.backend.graphs
        self._graphs = _PlannedGraphs(self._planned, graphs, in_order=self._in_order)
        compiled.backend.follower = self._graphs
        # As when AOTAutograd asks for the two parts of a graph.
        with no_autocast(), torch.no_grad(), exact_tracing(), quiet_warnings():
            for graph in graphs:
                self._graphs.follow(graph)


class _PlannedGraphs:
    """Rewrites each graph by its region of the plan."""

    def __init__(
        self, planned: PlannedRegions, graphs: list[CompiledGraph], *, in_order: bool
    ) -> None:
        self._in_order = in_order
        self._regions = planned.regions
        self._is_exact = planned.is_exact
        self._pieces = planned.pieces
        self._graphs = graphs
        self._num_compiled = 0
        self.num_unknown = 0
        self.num_other_backwards = 0
        self.num_compilations = 0
        self.is_quiet = False
        self.must_match = False
        self._times_compiled: collections.Counter[str] = collections.Counter()

    def compile(self, graph_module: fx.GraphModule, example_inputs: list[Any]) -> Any:
        self.num_compilations += 1
        return compile_in_pieces(graph_module, example_inputs, self._compile, self._pieces)

    def _compile(self, graph_module: fx.GraphModule, example_inputs: list[Any]) -> Any:
        graph = CompiledGraph(stage="rewrite")
        region = _FollowedRegion(self, graph)
        call = graph.compile(graph_module, example_inputs, region.cut)
        if graph.has_backward:
            region.take_over(graph.run_own_backward, in_order=self._in_order)
        self._graphs.append(graph)
        return call

    @own_code("rewrite")
    def follow(self, graph: CompiledGraph) -> None:
        """Let a graph that was compiled before run by its region of the plan."""
        graph.forward = graph.backward = graph.out_of_memory_at = None
        if graph.has_backward:
            region = _FollowedRegion(self, graph)
            forward, backward = region.cut()
            graph.forward = boxed(forward)
            region.take_over(boxed(backward), in_order=self._in_order)

    def match(self, template: JointTemplate) -> tuple[PlannedRegion, JointGraph] | None:
        """Find the planned region of a graph, with its analysis; try the next in line first."""
        count = len(self._regions)
        for offset in range(count):
            number = (self._num_compiled + offset) % count
            region = self._regions[number]
            absent = region.absent_tangents
            if max(absent, default=-1) >= template.num_tangents:
                continue
            joint = template.analyzed(absent)
            order = self._order(region, joint)
            if order is not None:
                self._num_compiled = number + 1
                self._count(region)
                return dataclasses.replace(region, order=order), joint
        if self.must_match:
            raise OtherGraphError
        self.num_unknown += 1
        return None

    def _order(self, region: PlannedRegion, joint: JointGraph) -> RegionOrder | None:
        """The region's order for this graph; None if the graph is not the region's."""
        if joint.fingerprint == region.fingerprint:
            # The bits were compared with eager's for these numbers.
            is_same = joint.constants == region.constants or not self.must_match
            return region.order if is_same else None
        return None if self._is_exact else aligned(region.order, region.signatures, joint)

    def _count(self, region: PlannedRegion) -> None:
        self._times_compiled[region.fingerprint] += 1
        most = self._regions.count(region) * _MANY_COMPILATIONS
        if self._times_compiled[region.fingerprint] == most and not self.is_quiet:
            warn_user(
                f"a graph of the model was compiled {most} times for one plan: Python state that "
                "its forward reads, such as a step counter, changes from call to call. Keep such "
                "state in a tensor (a buffer) or outside of the forward: compiling takes time in "
                "every step."
            )


class _FollowedRegion:
    """One graph that follows its region of a plan."""

    def __init__(self, plan: _PlannedGraphs, graph: CompiledGraph) -> None:
        self._plan = plan
        self._graph = graph
        self._expected: frozenset[int] = frozenset()
        self._arrivals: tuple[int, ...] = ()
        self._saved_names: list[str] = []
        self._others: dict[frozenset[int], Callable[[list[Any]], Any]] = {}

    def cut(self, *_: Any, **__: Any) -> tuple[fx.GraphModule, fx.GraphModule]:
        """The forward and the backward that follow the plan; AOTAutograd may ask for them."""
        template = self._graph.template
        found = self._plan.match(template)
        if found is None:
            warn_user(
                "a graph of the model is not in its plan (its code took another path than when "
                "it was planned); it runs with nothing recomputed, so the budget may be exceeded"
            )
            module = fx.GraphModule(template.module, copied_graph(template.module.graph))
            forward, backward = default_partition(
                module,
                (),
                num_fwd_outputs=template.num_fwd_outputs,
                static_lifetime_input_indices=list(template.static_indices),
            )
        else:
            region, joint = found
            self._expected = region.absent_tangents
            self._arrivals = region.arrivals
            self._graph.sums_uses = bool(summed_storages(joint))
            forward, backward = rewrite(copied(joint), region.order)
        names = [node.name for node in backward.graph.find_nodes(op="placeholder")]
        self._saved_names = names[: len(names) - template.num_tangents]
        return forward, backward

    def take_over(self, planned: Callable[[list[Any]], Any], *, in_order: bool) -> None:
        """Let the graph run the planned backward, or another one if other gradients arrive."""
        num_tangents = self._graph.template.num_tangents

        def backward(args: list[Any]) -> Any:
            tangents = args[len(args) - num_tangents :]
            absent = frozenset(i for i, tangent in enumerate(tangents) if tangent is None)
            del tangents
            if absent == self._expected:
                return planned(args)
            self._plan.num_other_backwards += 1
            return self._other_backward(absent)(args)

        self._graph.backward = backward
        self._graph.arrivals = self._arrivals if in_order else ()

    @own_code("rewrite")
    def _other_backward(self, absent: frozenset[int]) -> Callable[[list[Any]], Any]:
        if absent not in self._others:
            try:
                joint = self._graph.template.analyzed(absent)
                self._graph.sums_uses |= bool(summed_storages(joint))
                with quiet_warnings():
                    module = backward_from_saved(copied(joint), self._saved_names)
            except LookupError as error:
                raise CaptureError(
                    where="a backward that the plan did not expect",
                    reason="gradients arrive for other outputs of the forward than planned, and "
                    f"what they need ({error}) was not saved",
                    advice="autockpt learns from it for later steps, if you go on. Let the forward "
                    "return all that the loss reads, and loss_fn=... use all of it, so that the "
                    "first plan sees the loss.",
                ) from error
            self._others[absent] = boxed(module)
        return self._others[absent]
