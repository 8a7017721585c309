"""Records the joint graphs of a step while it runs on fake tensors.

AOTAutograd calls what is marked as `own_code`, in the middle of tracing the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx

from autockpt.capture.blame import own_code
from autockpt.capture.captured import CapturedGraph, Keys
from autockpt.capture.compiled import Backend, CompiledGraph
from autockpt.capture.joint import JointGraph
from autockpt.capture.pieces import Pieces, compile_in_pieces
from autockpt.errors import AutockptError, CaptureError
from autockpt.torch_private.dynamo import break_of, ends_at_a_break, first_lines
from autockpt.torch_private.tensors import storage_key
from autockpt.user_code import users_place


class SplitForwardError(AutockptError):
    """A forward that was to be traced on its own tensors is more than one graph.

    Attributes:
        split: Where Dynamo would split it, and why; empty if it is unknown.
    """

    def __init__(self, split: str = "") -> None:
        self.split = split
        super().__init__("the forward is more than one graph")


class Recorder:
    """Lets graphs run unchanged on fakes, and records their joint graphs.

    Attributes:
        is_outside: Whether the graphs that come next belong to code outside of the model.
    """

    def __init__(self, backend: Backend, *, pieces: Pieces, split: str = "") -> None:
        """Record what a backend compiles.

        Args:
            backend: The backend. If it has stand-ins, what is traced is also what runs later. The
                forward must be one graph then: tensors between two graphs would be fakes.
            pieces: Where to cut each graph.
            split: Where Dynamo first splits the forward, and why, if that is known.
        """
        self.is_outside = False
        self._backend = backend
        self._pieces = pieces
        self._num_frames = 0
        self._records: list[_Record] = []
        self._split = split

    def compile(self, graph_module: fx.GraphModule, example_inputs: list[Any]) -> Any:
        """Compile one of Dynamo's graphs to run unchanged, and record it."""
        is_traced_once = self._backend.stand_ins is not None and not self.is_outside
        if is_traced_once and (self._records or ends_at_a_break(graph_module)):
            raise SplitForwardError(self._split)
        self._note_split(graph_module)
        self._num_frames += 1
        compiled = compile_in_pieces(graph_module, example_inputs, self._compile, self._pieces)
        return self._backend.on_stand_ins(compiled) if is_traced_once else compiled

    def _compile(self, graph_module: fx.GraphModule, example_inputs: list[Any]) -> Any:
        record = _Record(self.split, is_outside=self.is_outside, frame=self._num_frames)
        self._records.append(record)
        if not self.is_outside:
            self._backend.graphs.append(record.graph)
        return record.compile(graph_module, example_inputs)

    def _note_split(self, graph_module: fx.GraphModule) -> None:
        found = break_of(graph_module)
        if found is not None and not self._split and not self.is_outside:
            reason, lines = found
            place = users_place(lines)
            self._split = f"{place}: {reason}" if place else reason

    def split(self) -> str:
        """Where Dynamo first split the forward, and why; empty if it did not."""
        return self._split

    def finish(self) -> tuple[CapturedGraph, ...]:
        """Return the recorded graphs, in the order in which they were compiled.

        From now on they run as they were compiled, on whatever they are called with.
        """
        self._backend.stand_ins = None
        return tuple(graph for record in self._records for graph in record.finish())


class _Record:
    """What one graph shows while it runs on fakes."""

    def __init__(self, split: Callable[[], str], *, is_outside: bool, frame: int) -> None:
        self._split = split
        self.graph = CompiledGraph(stage="capture")
        self.is_outside = is_outside
        self._frame = frame
        self._place = ""
        self._joint: JointGraph | None = None
        self._input_keys: Keys = ()
        self._output_keys: Keys = ()
        self._tangent_keys: Keys = ()
        self._grad_keys: Keys = ()
        self._has_run = False
        self._has_backward = False
        self._alive: list[Any] = []

    def compile(self, graph_module: fx.GraphModule, example_inputs: list[Any]) -> Any:
        place = users_place(first_lines(graph_module))
        self._place = f" ({place})" if place else ""
        self.graph.forward = self._run_forward
        self.graph.backward = self._run_backward
        return self.graph.compile(graph_module, example_inputs)

    @own_code("capture")
    def _run_forward(self, args: list[Any]) -> Any:
        if self._has_run:
            split = self._split()
            raise CaptureError(
                where=f"a loop in the forward{self._place}",
                reason="one graph runs several times in a step, and cannot have several plans"
                + (f"; Dynamo splits the forward at {split}" if split else ""),
            )
        self._has_run = True
        self._input_keys = tuple(keys_of(arg) for arg in args)
        self._alive.extend(args)
        outputs = self.graph.run_own_forward(args)
        self._alive.extend(outputs)
        num_outputs = self.graph.template.num_fwd_outputs
        self._output_keys = tuple(keys_of(o) for o in outputs[:num_outputs])
        return outputs

    @own_code("capture")
    def _run_backward(self, args: list[Any]) -> Any:
        template = self.graph.template
        tangents = args[len(args) - template.num_tangents :]
        self._alive.extend(args)
        args.clear()
        self._has_backward = True
        self._tangent_keys = tuple(keys_of(tangent) for tangent in tangents)
        absent = frozenset(i for i, tangent in enumerate(tangents) if tangent is None)
        self._joint = template.analyzed(absent)
        output = next(iter(self._joint.module.graph.find_nodes(op="output")))
        grads = [
            torch.empty_like(o.meta["val"]) if isinstance(o, fx.Node) else None
            for o in output.args[0][template.num_fwd_outputs :]
        ]
        self._alive.extend(grads)
        self._grad_keys = tuple(keys_of(grad) for grad in grads)
        return grads

    def finish(self) -> list[CapturedGraph]:
        self.graph.forward = self.graph.backward = None
        if not self.graph.is_traced:
            return []
        template = self.graph.template
        if self._joint is None:
            self._joint = template.analyzed(frozenset(range(template.num_tangents)))
        return [
            CapturedGraph(
                joint=self._joint,
                has_backward=self._has_backward,
                is_outside=self.is_outside,
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
