"""Passes over fx graphs, and sizes that are symbols.

Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import torch.fx as fx
from torch.fx.experimental.proxy_tensor import is_sym_node
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.graph import _BoxedCodeGen
from torch.fx.passes.split_module import split_module

__all__ = ["is_sym_node", "split_module", "statically_known_true", "take_one_list"]


def take_one_list(graph: fx.Graph) -> None:
    """Generate code that takes its inputs as one list and empties it."""
    graph.set_codegen(_BoxedCodeGen())
