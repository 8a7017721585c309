"""Autograd's backward: which operator of the forward a node is for, and how a backward ends.

Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from autockpt.torch_private.pytree import tree_leaves


def next_sequence_number() -> int:
    """The number that autograd gives the next node of this thread."""
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]


def running_sequence_number() -> int | None:
    """The number of the node that runs in a backward; None if none does."""
    node: Any = torch._C._current_autograd_node()
    return None if node is None else int(node._sequence_nr())


def num_gradients(outputs: Any, leaf: torch.Tensor) -> int:
    """How many gradients a backward from some outputs adds up for a leaf."""
    tensors = [each for each in tree_leaves(outputs) if isinstance(each, torch.Tensor)]
    # A node with several outputs, such as that of `chunk`, returns one gradient for all of them.
    seen = {each.grad_fn for each in tensors if each.grad_fn is not None}
    waiting = list(seen)
    num_edges = 0
    while waiting:
        for following, _ in waiting.pop().next_functions:
            if following is None:
                continue
            if getattr(following, "variable", None) is leaf:
                num_edges += 1
            elif following not in seen:
                seen.add(following)
                waiting.append(following)
    return num_edges


def running_backward() -> int:
    """The number of the backward that runs now; -1 if none does."""
    return int(torch._C._current_graph_task_id())


def backward_keeps_graph() -> bool:
    """Whether the backward that runs now leaves its graph for another one (``retain_graph``)."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def after_backward(callback: Callable[[], None]) -> None:
    """Call something when the backward that runs now has ended; not if it fails."""
    torch.autograd.Variable._execution_engine.queue_callback(callback)
