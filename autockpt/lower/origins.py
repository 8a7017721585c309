"""Where the engine's ops come from: nodes of captured graphs, and what happens around them."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch.fx as fx

OpKind = Literal["node", "rng_state", "tangents", "sums", "hold", "accumulation", "optimizer"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an engine op comes from: a node of a captured graph, or what happens around it.

    Attributes:
        kind: `rng_state` reads the generator before a random node, `tangents` are gradients that
            arrive in storages of their own, `sums` adds up gradients that are passed back to an
            earlier graph, `hold` keeps what Python frames keep, `accumulation` adds complete
            gradients to older ones, and `optimizer` is the optimizer's step.
        region: The captured graph.
        joint_op: Position among the ops of its joint graph; -1 if it is none of them.
    """

    kind: OpKind
    region: int
    joint_op: int = -1


def module_of(node: fx.Node, module_names: frozenset[str]) -> str:
    """The path of the module whose forward a node belongs to; "" for the outermost."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    for path, _ in reversed(list(stack.values())):
        parts = (
            str(path).replace("._modules['", ".").replace("']", "").replace("['", ".").split(".")
        )
        # The path begins with Dynamo's name for what was compiled.
        for start in range(len(parts)):
            name = ".".join(parts[start:])
            if name in module_names:
                return name
    return ""
