"""Passes over fx graphs, and sizes that are symbols.

Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx
from torch.fx.experimental.proxy_tensor import is_sym_node
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.graph import _BoxedCodeGen
from torch.fx.passes.split_module import split_module

__all__ = [
    "is_sym_node",
    "skips_version_check",
    "split_in_pieces",
    "statically_known_true",
    "take_one_list",
]

# torch 2.11 cannot make pieces with one result return a tuple.
_MAKES_TUPLES = "tuple_return" in inspect.signature(split_module).parameters


def skips_version_check(node: fx.Node) -> bool:
    """Whether a custom autograd function keeps this tensor without ``save_for_backward``."""
    return bool(node.meta.get("saved_tensor_with_no_vc_check"))


def take_one_list(graph: fx.Graph) -> None:
    """Generate code that takes its inputs as one list and empties it."""
    graph.set_codegen(_BoxedCodeGen())


def split_in_pieces(
    graph_module: fx.GraphModule, number_of: Callable[[fx.Node], int]
) -> fx.GraphModule:
    """Split a graph into submodules that it calls one after the other; each returns a tuple.

    Args:
        graph_module: The graph to split; it does not change.
        number_of: The number of the piece that a node belongs to.
    """
    split = functools.partial(
        split_module, graph_module, torch.nn.Module(), number_of, keep_original_order=True
    )
    whole: fx.GraphModule
    if _MAKES_TUPLES:
        whole = split(tuple_return=True)
    else:
        whole = split()
        _return_tuples(whole)
    return whole


def _return_tuples(whole: fx.GraphModule) -> None:
    for call in whole.graph.find_nodes(op="call_module"):
        piece: Any = whole.get_submodule(str(call.target))
        output = next(iter(piece.graph.find_nodes(op="output")))
        if isinstance(output.args[0], (tuple, list)):
            continue
        output.args = ((output.args[0],),)
        piece.recompile()
        with whole.graph.inserting_after(call):
            only = whole.graph.call_function(operator.getitem, (call, 0))
        call.replace_all_uses_with(only, delete_user_cb=lambda user, kept=only: user is not kept)
    whole.recompile()
