"""How near plain `torch.utils.checkpoint` comes to a plan, and the lines that do it."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch

from autockpt.choices.levels import levels_of
from autockpt.fitting.layers import above, checkpointed
from autockpt.report.plan import Plan
from autockpt_solvers import ComputeGraph, ScheduleError, simulate

_LISTS = (torch.nn.ModuleList, torch.nn.ModuleDict)
_MUST_RUN = ("# if a layer is itself a list of layers, name those instead: lists have no forward",)
_MOST_SEGMENTS = 16
_FEW_LAYERS = 24  # of which every number is tried
_HARDLY = 0.01  # of a step


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


def nearest_plain(plan: Plan, model: torch.nn.Module | None = None) -> tuple[Plain, ...]:
    """Returns ways to checkpoint with torch alone; of each kind the cheapest that fits the budget.

    If none of a kind fits, it is the one with the lowest peak. Items of lists of modules are
    checkpointed: of the outermost lists, or of lists inside of their items. A model that is one
    list is cut by ``checkpoint_sequential`` too.

    Args:
        plan: A plan with its graph.
        model: Its model, which tells a list of lists from a list of modules that have a forward.

    Raises:
        ValueError: The plan has no graph.
    """
    if plan.graph is None:
        raise ValueError("this plan has no graph to checkpoint: the model runs as it is")
    tried = _Tried(plan=plan, graph=plan.graph, may_be_lists=model is None)
    levels = levels_of([op.segment for op in plan.graph.ops], _runs_in(model))
    if not levels:
        return ()
    ways = [way for layers in levels for way in tried.cheapest(layers)]
    found = [_best(plan, ways)]
    outermost = levels[0]
    if all(layer.isdecimal() for layer in outermost):
        counts = range(2, min(_MOST_SEGMENTS, len(outermost)) + 1)
        found.append(_best(plan, [_segments(plan, plan.graph, outermost, k) for k in counts]))
    return tuple(each for each in found if each is not None)


def _best(plan: Plan, tried: Sequence[Plain | None]) -> Plain | None:
    """The cheapest way that fits; an earlier one is preferred to one that is hardly cheaper."""
    hardly_ns = int(_HARDLY * plan.baseline_step_ns)

    def is_better(way: Plain, than: Plain) -> bool:
        if way.fits != than.fits:
            return way.fits
        if way.fits:
            return way.recompute_ns + hardly_ns < than.recompute_ns
        return way.peak_bytes < than.peak_bytes

    best: Plain | None = None
    for way in tried:
        if way is not None and (best is None or is_better(way, best)):
            best = way
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """Ways to checkpoint some of a plan's layers."""

    plan: Plan
    graph: ComputeGraph
    may_be_lists: bool

    def cheapest(self, layers: Sequence[str]) -> list[Plain]:
        """Checkpoints as few layers as fit the budget: the first ones; those that save most.

        Args:
            layers: The layers, in forward order; none is inside another.
        """
        found = [self._fewest(layers, layers), self._fewest(layers, self._by_savings(layers))]
        return [way for ways in found for way in ways]

    def _fewest(self, layers: Sequence[str], order: Sequence[str]) -> list[Plain]:
        """The fewest layers that fit, of those in an order; if none do, some of the choices."""
        every = len(order)
        if every <= _FEW_LAYERS:
            return self._ways(layers, order, range(1, every + 1))
        low, high = 0, every
        while high - low > 1:
            middle = (low + high) // 2
            fits = any(way.fits for way in self._ways(layers, order, [middle]))
            low, high = (low, middle) if fits else (middle, high)
        counts = {high, *(every * quarter // 4 for quarter in (2, 3, 4))}
        return self._ways(layers, order, sorted(counts))

    def _ways(
        self, layers: Sequence[str], order: Sequence[str], counts: Iterable[int]
    ) -> list[Plain]:
        ways = [self._checkpointed(layers, frozenset(order[:count])) for count in counts]
        return [way for way in ways if way is not None]

    def _by_savings(self, layers: Sequence[str]) -> list[str]:
        """Layers by what each saves for the time that it runs again, the most first."""
        saved_bytes = dict.fromkeys(layers, 0)
        time_ns = dict.fromkeys(layers, 1)
        for op in self.graph.ops:
            layer = next((at for at in above(op.segment) if at in saved_bytes), None)
            if layer is None or op.is_backward:
                continue
            time_ns[layer] += op.runtime_ns
            for storage in op.writes:
                if any(self.graph.ops[at].is_backward for at in self.graph.readers[storage]):
                    saved_bytes[layer] += self.graph.size(storage)
        return sorted(layers, key=lambda layer: -saved_bytes[layer] / time_ns[layer])

    def _checkpointed(self, layers: Sequence[str], chosen: frozenset[str]) -> Plain | None:
        items = [_items(path, numbers, layers) for path, numbers in _by_list(layers, chosen)]
        (first, *others) = [item for each in items for item in each]
        if others:
            listed = ["for layer in (", *(f"    {item}," for item in (first, *others)), "):"]
        else:
            listed = [f"for layer in {first.removeprefix('*')}:"]
            if not first.startswith("*"):
                listed = [f"for layer in ({first},):"]
        lines = (
            "import functools",
            "from torch.utils.checkpoint import checkpoint",
            "",
            *(_MUST_RUN if self.may_be_lists and self._has_lists(chosen) else ()),
            *listed,
            "    layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)",
        )
        is_every = len(chosen) == len(layers)
        name = "every layer" if is_every else f"{len(chosen)} of {len(layers)} layers"
        groups = {layer: layer for layer in chosen}
        return _simulated(self.plan, self.graph, groups, f"checkpoint {name}", lines)

    def _has_lists(self, chosen: AbstractSet[str]) -> bool:
        """Whether the graph leaves open if a layer is a list of layers: it only runs its items."""
        known = {op.segment for op in self.graph.ops}
        return any(
            layer not in known
            and all(
                segment[len(layer) + 1 :].partition(".")[0].isdecimal()
                for segment in known
                if segment.startswith(f"{layer}.")
            )
            for layer in chosen
        )


def _runs_in(model: torch.nn.Module | None) -> Callable[[str], bool]:
    """Whether the module of a path has a forward; without a model, all are said to."""
    if model is None:
        return lambda _: True
    modules = dict(model.named_modules())
    return lambda path: path not in modules or not isinstance(modules[path], _LISTS)


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


def _by_list(
    layers: Sequence[str], chosen: AbstractSet[str]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The paths of lists of modules, and the numbers of their chosen items."""
    numbers: dict[str, list[int]] = {}
    for layer in layers:
        if layer in chosen:
            path, _, number = layer.rpartition(".")
            numbers.setdefault(path, []).append(int(number))
    for path, found in numbers.items():
        yield path, tuple(sorted(found))


def _items(path: str, chosen: tuple[int, ...], layers: Sequence[str]) -> list[str]:
    """The chosen items of a list as expressions: the whole list, its first items, or each."""
    known = [int(layer.rpartition(".")[2]) for layer in layers if layer.rpartition(".")[0] == path]
    expression = _expression(path)
    if len(chosen) == len(known):
        return [f"*{expression}"]
    if len(chosen) > 1 and all(number in chosen for number in known if number <= chosen[-1]):
        return [f"*{expression}[:{chosen[-1] + 1}]"]
    return [f"{expression}[{number}]" for number in chosen]


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
