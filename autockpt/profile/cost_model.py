"""Costs by a model of your own: from an operation to its time and its workspace.

autockpt first profiles the operations as always, so that a model of costs may refine what was
measured, and bytes of outputs stay those of the kernels. Nothing of a cost model is kept among the
measured costs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, Protocol

import torch
import torch.fx as fx

from autockpt.capture.nodes import tensors_of
from autockpt.errors import CostError
from autockpt.profile.cache import MAX_BYTES, MAX_RUNTIME_NS, NodeCost
from autockpt.profile.kinds import Kind, kind_of
from autockpt.profile.roofline import work_of
from autockpt_solvers.plugins import find_plugin

GROUP = "autockpt.costs"  # of entry points


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation of a training step, as a cost model sees it.

    Attributes:
        name: Its name in the captured graph, such as ``"addmm_3"``; unique in that graph.
        operator: The operator, such as ``"aten.addmm.default"``.
        kind: The kind of its kernel: ``"matmul"``, ``"convolution"``, ``"attention"``,
            ``"attention_backward"``, ``"normalization"``, ``"normalization_backward"`` or
            ``"elementwise"``.
        module: The path of the module whose forward or backward it belongs to, such as
            ``"transformer.h.3.mlp"``; empty for the model itself.
        is_backward: Whether it belongs to the backward.
        input_shapes: The shapes of its tensors, in the order of its arguments.
        input_dtypes: Their types.
        output_shapes: The shapes of the tensors that it returns.
        output_dtypes: Their types.
        num_flops: Its floating-point operations; 0 if torch has no formula for the operator.
        moved_bytes: The bytes of all inputs and outputs.
        runtime_ns: Its time by autockpt's own profile, measured or estimated.
        workspace_bytes: Its workspace beyond inputs and outputs, by the same profile.
        device: Where it runs: a device of torch, or the name of one that is not here.
        node: The node of the captured graph, for everything else.
    """

    name: str
    operator: str
    kind: Kind
    module: str
    is_backward: bool
    input_shapes: tuple[tuple[int, ...], ...]
    input_dtypes: tuple[torch.dtype, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    output_dtypes: tuple[torch.dtype, ...]
    num_flops: int
    moved_bytes: int
    runtime_ns: int
    workspace_bytes: int
    device: str
    node: fx.Node = dataclasses.field(repr=False, compare=False)


class CostModel(Protocol):
    """A cost model: a callable that gets an operation."""

    def __call__(self, operation: Operation, /) -> float | tuple[float, float]:
        """Return the time in nanoseconds, or that and the workspace in bytes."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A node with the module that it belongs to, and whether the backward runs it."""

    node: fx.Node
    module: str
    is_backward: bool


def find_cost(cost: str | CostModel) -> CostModel:
    """Return a cost model that is given as a callable, or by the name of an entry point.

    Raises:
        TypeError: It is neither.
        ValueError: There is no such entry point.
    """
    if not isinstance(cost, str):
        if not callable(cost):
            raise TypeError(
                f"cost is a {type(cost).__name__}; it must be a function of an operation, or the "
                f"name of an entry point of {GROUP}"
            )
        return cost
    found = find_plugin(GROUP, cost)
    assert callable(found)
    return found


def name_of(model: CostModel) -> str:
    """The name of a cost model, for reports and errors."""
    return str(getattr(model, "__qualname__", None) or type(model).__qualname__)


def modelled(
    placed: Iterable[Placed],
    profiled: Mapping[fx.Node, NodeCost],
    model: CostModel,
    *,
    device: str,
) -> dict[fx.Node, NodeCost]:
    """Return the costs of all nodes by a cost model.

    Args:
        placed: The nodes.
        profiled: Their costs by autockpt's own profile.
        model: The cost model.
        device: Where the nodes run.

    Raises:
        CostError: The model raised, or returned something that is no cost.
    """
    return {each.node: _cost(each, profiled[each.node], model, device) for each in placed}


def _cost(placed: Placed, profiled: NodeCost, model: CostModel, device: str) -> NodeCost:
    operation = _operation(placed, profiled, device)

    def error(what: str, must: str) -> CostError:
        return CostError(
            model=name_of(model),
            operation=operation.name,
            operator=operation.operator,
            module=operation.module,
            problem=what,
            advice=must,
        )

    try:
        answer: Any = model(operation)
    except Exception as raised:
        what = f"raised {type(raised).__name__}: {raised}"
        raise error(what, "it must return a cost for every operation") from raised
    parts = answer if isinstance(answer, tuple) else (answer, profiled.workspace_bytes)
    if len(parts) != 2:
        raise error(
            f"returned a tuple of {len(parts)}", "it must return (time_ns, workspace_bytes)"
        )
    limits = (("time_ns", "nanoseconds", MAX_RUNTIME_NS), ("workspace_bytes", "bytes", MAX_BYTES))
    for value, (name, unit, most) in zip(parts, limits, strict=True):
        must = f"{name} must be a number of {unit} from 0 to {most:.0e}"
        if isinstance(value, bool) or not isinstance(value, Real):
            raise error(f"returned {value!r}, a {type(value).__name__}, as {name}", must)
        if not 0 <= float(value) <= most:  # false for NaN
            raise error(f"returned {value} as {name}", must)
    time_ns, workspace_bytes = parts
    return dataclasses.replace(
        profiled, runtime_ns=round(time_ns), workspace_bytes=math.ceil(workspace_bytes)
    )


def _operation(placed: Placed, profiled: NodeCost, device: str) -> Operation:
    node = placed.node
    work = work_of(node)
    inputs = tensors_of(work.inputs)
    outputs = tensors_of(work.result)
    return Operation(
        name=node.name,
        operator=str(node.target),
        kind=kind_of(node.target),
        module=placed.module,
        is_backward=placed.is_backward,
        input_shapes=tuple(tuple(map(int, t.shape)) for t in inputs),
        input_dtypes=tuple(t.dtype for t in inputs),
        output_shapes=tuple(tuple(map(int, t.shape)) for t in outputs),
        output_dtypes=tuple(t.dtype for t in outputs),
        num_flops=work.num_flops,
        moved_bytes=work.moved_bytes,
        runtime_ns=profiled.runtime_ns,
        workspace_bytes=profiled.workspace_bytes,
        device=device,
        node=node,
    )
