"""Compile a forward with Dynamo.

Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.fx as fx
from torch._dynamo.resume_execution import TORCH_DYNAMO_RESUME_IN_PREFIX

# What says on a tensor which of its dimensions Dynamo traces as symbols, and how.
_MARKS = (
    "_dynamo_dynamic_indices",
    "_dynamo_dynamic_range",
    "_dynamo_hint_overrides",
    "_dynamo_propagated_dynamic_indices",
    "_dynamo_shape_ids",
    "_dynamo_static_indices",
    "_dynamo_strict_unbacked_indices",
    "_dynamo_unbacked_bounds",
    "_dynamo_unbacked_indices",
    "_dynamo_weak_dynamic_indices",
    "_has_dynamo_dim_marking",
    "_specialize_on",
)

# A call splits the graph that Dynamo makes of a forward at that place.
graph_break = torch._dynamo.graph_break


def ends_at_a_break(graph_module: fx.GraphModule) -> bool:
    """Whether Dynamo splits the forward after this one of its graphs."""
    reason: Any = getattr(graph_module, "compile_subgraph_reason", None)
    return bool(reason is not None and reason.graph_break)


def break_of(graph_module: fx.GraphModule) -> tuple[str, tuple[tuple[str, int], ...]] | None:
    """Why Dynamo splits the forward after this graph, and the lines of code that led there."""
    if not ends_at_a_break(graph_module):
        return None
    reason: Any = graph_module.compile_subgraph_reason
    first_line = str(reason.reason).strip().splitlines() or [""]
    return first_line[0], tuple((f.filename, f.lineno or 0) for f in reason.user_stack)


def first_lines(graph_module: fx.GraphModule) -> tuple[tuple[str, int], ...]:
    """The lines of code that led to the first operation of a graph, outermost first."""
    for node in graph_module.graph.nodes:
        found = re.findall(r'File "(.+)", line (\d+)', node.stack_trace or "")
        if found:
            return tuple((filename, int(line)) for filename, line in found)
    return ()


def guard_failures() -> dict[Any, int]:
    """How often Dynamo has compiled each piece of code again, counted by the guards that failed."""
    from torch._dynamo import utils

    return {code: len(reasons) for code, reasons in utils.guard_failures.items()}


def changed_since(before: dict[Any, int]) -> tuple[str, str]:
    """What Dynamo has compiled code again for, such as `self.step == 3`, and its file and line.

    Args:
        before: The result of `guard_failures` before that.

    Returns:
        Two empty texts if Dynamo does not say.
    """
    from torch._dynamo import utils

    for code, reasons in utils.guard_failures.items():
        new = reasons[before.get(code, 0) :]
        if new:
            # The first is of the graph that was compiled last. Code and a comment follow it.
            guard = re.match(r"\d+/\d+: (.*?)\s+#", new[0])
            line = re.search(r'File "(.+)", line (\d+)', new[0])
            return guard[1] if guard else "", f"{line[1]}:{line[2]}" if line else ""
    return "", ""


def no_breaks() -> contextlib.AbstractContextManager[Any]:
    """Let Dynamo raise an error where it would split a graph or leave a frame to Python.

    What it compiles in here may still be split later, by a call that needs other graphs.
    """
    return torch._dynamo.error_on_graph_break(True)


@contextlib.contextmanager
def only_varying(leaves: Sequence[Any], varying: Iterable[tuple[int, int]] = ()) -> Iterator[None]:
    """Let Dynamo trace dimensions of inputs as symbols, if the code allows it, and no others.

    Marks stay on a tensor, and would leave its dimensions open in other graphs too. So they are
    taken off again, and yours are put aside meanwhile.

    Args:
        leaves: The leaves of the inputs; what is no tensor is skipped.
        varying: The dimensions, each with the number of its leaf.
    """
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    yours = [_marks_taken_off(tensor) for tensor in tensors]
    try:
        for leaf, dimension in varying:
            if isinstance(leaves[leaf], torch.Tensor):
                torch._dynamo.maybe_mark_dynamic(leaves[leaf], dimension)
        yield
    finally:
        for tensor, marks in zip(tensors, yours, strict=True):
            _marks_taken_off(tensor)
            vars(tensor).update(marks)


def _marks_taken_off(tensor: torch.Tensor) -> dict[str, Any]:
    attributes = vars(tensor)
    return {name: attributes.pop(name) for name in _MARKS if name in attributes}


def compile_forward(
    forward: Callable[..., Any],
    backend: Callable[..., Any],
    *,
    fullgraph: bool = False,
    numbers_vary: bool = False,
) -> Callable[..., Any]:
    """Compile with a backend on static shapes, with a cache and limits apart from all others.

    Dynamo silently runs eager once it has compiled a code object eight times. That would drop the
    plan.

    Args:
        forward: What to compile.
        backend: What compiles its graphs.
        fullgraph: Raise an error if Dynamo would split it.
        numbers_vary: Trace Python numbers that have changed as symbols; see `tracing_config`.
    """
    known = inspect.signature(torch.compile).parameters
    apart = {"recompile_limit": 1_000_000, "isolate_recompiles": True}
    options: dict[str, Any] = {name: v for name, v in apart.items() if name in known}
    options |= {"dynamic": None if numbers_vary else False, "fullgraph": fullgraph}
    compiled: Callable[..., Any] = torch.compile(forward, backend=backend, **options)
    return compiled


def has_resumed(error: BaseException) -> bool:
    """Whether a compiled forward failed behind a graph break, when code before it has run."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(
        frame.f_code.co_name.startswith(TORCH_DYNAMO_RESUME_IN_PREFIX) for frame, _ in frames
    )
