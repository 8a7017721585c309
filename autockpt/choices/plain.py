"""How near plain `torch.utils.checkpoint` comes to a plan, and the lines that do it."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass

from autockpt.fitting.layers import checkpointed, layer_of
from autockpt.report.plan import Plan
from autockpt_solvers import ComputeGraph, ScheduleError, simulate

_MOST_SEGMENTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A way to checkpoint with torch alone, simulated on the plan's graph.

    Attributes:
        name: What it is.
        code: The lines to paste, for a model that is called `model`.
        peak_bytes: The peak of a step, everything counted.
        recompute_ns: The time of what runs again.
        fits: Whether the peak is within the plan's budget.
    """

    name: str
    code: tuple[str, ...]
    peak_bytes: int
    recompute_ns: int
    fits: bool


def nearest_plain(plan: Plan) -> tuple[Plain, ...]:
    """Returns ways to checkpoint with torch alone; of each kind the cheapest that fits the budget.

    If none of a kind fits, it is the one with the lowest peak. Whole layers are checkpointed: items
    of the outermost lists of modules. A model that is one list is cut by ``checkpoint_sequential``
    too.

    Args:
        plan: A plan with its graph.

    Raises:
        ValueError: The plan has no graph.
    """
    if plan.graph is None:
        raise ValueError("this plan has no graph to checkpoint: the model runs as it is")
    layers = list(dict.fromkeys(filter(None, (layer_of(op.segment) for op in plan.graph.ops))))
    if not layers:
        return ()
    found = [_best(plan, [_first_layers(plan, plan.graph, layers, k) for k in _counts(layers)])]
    if all(layer.isdecimal() for layer in layers):
        counts = range(2, min(_MOST_SEGMENTS, len(layers)) + 1)
        found.append(_best(plan, [_segments(plan, plan.graph, layers, k) for k in counts]))
    return tuple(each for each in found if each is not None)


def _counts(layers: Sequence[str]) -> range:
    return range(1, len(layers) + 1)


def _best(plan: Plan, tried: Sequence[Plain | None]) -> Plain | None:
    ways = [way for way in tried if way is not None]
    fitting = [way for way in ways if way.fits]
    if fitting:
        return min(fitting, key=lambda way: (way.recompute_ns, way.peak_bytes))
    return min(ways, key=lambda way: (way.peak_bytes, way.recompute_ns), default=None)


def _first_layers(
    plan: Plan, graph: ComputeGraph, layers: Sequence[str], count: int
) -> Plain | None:
    chosen = set(layers[:count])
    lines = ["import functools", "from torch.utils.checkpoint import checkpoint", ""]
    for path, number in _by_list(layers[:count]).items():
        total = sum(layer.rpartition(".")[0] == path for layer in layers)
        items = _expression(path) + ("" if number == total else f"[:{number}]")
        lines += [
            f"for layer in {items}:",
            "    layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)",
        ]
    share = "every layer" if count == len(layers) else f"{count} of {len(layers)} layers"
    return _simulated(
        plan, graph, {layer: layer for layer in chosen}, f"checkpoint {share}", tuple(lines)
    )


def _segments(plan: Plan, graph: ComputeGraph, layers: Sequence[str], count: int) -> Plain | None:
    """As `checkpoint_sequential` cuts: equal segments, of which the last is not checkpointed."""
    numbers = sorted(map(int, layers))
    size = (numbers[-1] + 1) // count
    if not size:
        return None
    groups = {
        str(number): f"segment {number // size}" for number in numbers if number // size < count - 1
    }
    lines = (
        "from torch.utils.checkpoint import checkpoint_sequential",
        "",
        f"output = checkpoint_sequential(model, {count}, x, use_reentrant=False)  # not model(x)",
    )
    return _simulated(plan, graph, groups, f"checkpoint_sequential in {count} segments", lines)


def _simulated(
    plan: Plan, graph: ComputeGraph, groups: dict[str, str], name: str, code: tuple[str, ...]
) -> Plain | None:
    schedule = checkpointed(graph, groups)
    try:
        timeline = simulate(graph, schedule)
    except ScheduleError:
        return None
    fixed_bytes = plan.fixed.total_bytes + plan.older_gradients_bytes
    peak_bytes = fixed_bytes + timeline.peak_bytes
    return Plain(
        name=name,
        code=code,
        peak_bytes=peak_bytes,
        recompute_ns=timeline.recompute_ns,
        fits=peak_bytes <= plan.budget_bytes,
    )


def _by_list(layers: Sequence[str]) -> dict[str, int]:
    """The paths of lists of modules, and how many of their first items are chosen."""
    counts: dict[str, int] = {}
    for layer in layers:
        path = layer.rpartition(".")[0]
        counts[path] = counts.get(path, 0) + 1
    return counts


def _expression(path: str) -> str:
    """A path of modules as an expression: `model.blocks[0].layers`."""
    expression = "model"
    for part in filter(None, path.split(".")):
        if part.isdecimal():
            expression += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z_]\w*", part) and not keyword.iskeyword(part):
            expression += f".{part}"
        else:
            return f"model.get_submodule({json.dumps(path, ensure_ascii=False)})"
    return expression
