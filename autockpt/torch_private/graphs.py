"""Passes over fx graphs, and sizes that are symbols.

Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx
from torch.fx._lazy_graph_module import _LazyGraphModule, _use_lazy_graph_module
from torch.fx.experimental.proxy_tensor import is_sym_node
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.graph import _BoxedCodeGen
from torch.fx.passes.split_module import split_module

__all__ = [
    "add_input",
    "code_when_it_runs",
    "copied_for_aot",
    "copied_graph",
    "generate_code",
    "is_autocast_on",
    "is_sym_node",
    "skips_version_check",
    "split_in_pieces",
    "statically_known_true",
    "take_one_list",
    "without_code",
]

# torch 2.11 cannot make pieces with one result return a tuple.
_MAKES_TUPLES = "tuple_return" in inspect.signature(split_module).parameters


def copied_graph(graph: fx.Graph) -> fx.Graph:
    """A copy of a graph, which takes its arguments as the original does.

    ``copy.deepcopy`` also copies how nested arguments are flattened, and torch warns while it does.
    """
    new = fx.Graph()
    copied: Any = new.graph_copy(graph, {}, return_output_node=True)
    values, old_output = copied
    new.set_codegen(graph._codegen)
    output: Any = new.output(values, type_expr=old_output.type)
    output.meta = dict(old_output.meta)
    return new


def code_when_it_runs() -> contextlib.AbstractContextManager[None]:
    """Let graph modules that torch makes inside generate code when they run, if they ever do."""
    lazily: contextlib.AbstractContextManager[None] = _use_lazy_graph_module(True)
    return lazily


def without_code(root: torch.nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A graph module that generates code when it runs, if it ever does."""
    module: fx.GraphModule = _LazyGraphModule(root, graph)
    return module


def generate_code(graph_module: fx.GraphModule) -> None:
    """Generate the code of a graph that has changed."""
    graph_module.recompile()
    _LazyGraphModule.force_recompile(graph_module)


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


def copied_for_aot(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A copy of Dynamo's graph that AOTAutograd still takes for one of Dynamo's."""
    graph = fx.Graph(graph_module)
    new: dict[fx.Node, fx.Node] = {}
    for node in graph_module.graph.nodes:
        new[node] = graph.node_copy(node, new.__getitem__)
        _take_over("_dynamo_source", node, new[node])
    copied = fx.GraphModule(graph_module, graph)
    copied.meta = dict(graph_module.meta)
    _take_over("_param_name_to_source", graph_module, copied)
    return copied


def _take_over(name: str, old: Any, new: Any) -> None:
    """Take over what Dynamo leaves on its graphs, if it is there."""
    if name in vars(old):
        vars(new)[name] = vars(old)[name]


def add_input(graph: fx.Graph, name: str, *, like: fx.Node, after: fx.Node) -> fx.Node:
    """Add an input to a graph of Dynamo's that comes from nowhere in its code."""
    with graph.inserting_after(after):
        added = graph.placeholder(name)
    added.meta = dict(like.meta)
    vars(added)["_dynamo_source"] = None
    return added


def is_autocast_on(graph: fx.Graph) -> bool:
    """Whether autocast is on around a graph that is traced now, or in it."""
    enter = torch.amp.autocast_mode._enter_autocast
    is_around = any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))
    return is_around or any(node.target is enter for node in graph.nodes)


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
