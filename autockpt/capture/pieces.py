"""One captured graph as several autograd nodes, so that gradients are passed on one by one.

A backward that is one graph returns all of its gradients at its end. If there are gradients of an
earlier backward, two full sets are in memory then, and data parallelism cannot begin to reduce. A
graph cut into pieces returns the gradients of each piece when that piece is done. What crosses a
cut is saved, so autockpt cuts where little crosses, and only if the order in which gradients are
summed stays eager's.

Beside older gradients, what matters is the memory that cutting leaves: what crosses the cuts, and
the gradients of the largest piece. That is least with few cuts, at the borders of a model's blocks.
To reduce gradients while the backward runs, pieces of about equal size are wanted instead.
"""

from __future__ import annotations

import bisect
import collections
import itertools
import operator
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.fx as fx

from autockpt.capture.uses import num_gradients_through, times_given
from autockpt.torch_private.graphs import split_in_pieces
from autockpt.torch_private.modes import SET_GRAD_ENABLED
from autockpt.torch_private.pytree import tree_leaves
from autockpt.torch_private.tensors import storage_key

Compile = Callable[[fx.GraphModule, list[Any]], Callable[..., Any]]
# Where a graph is cut: nowhere, so that the least memory is left, or into equal shares.
Pieces = Literal["", "lean", "equal"]

_MOST_PIECES = 16  # each cut saves what crosses it, and each piece is one more autograd node
_MOST_LEAN_PIECES = 32
_REGION_BOUNDS = {"_enter_autocast": 1, "_exit_autocast": -1}
_IN_PLACE = {
    operator.setitem,
    *(getattr(operator, name) for name in ("iadd", "isub", "imul", "itruediv", "ifloordiv")),
    *(getattr(operator, name) for name in ("imod", "ipow", "imatmul", "iand", "ior", "ixor")),
}


def compile_in_pieces(
    graph_module: fx.GraphModule,
    example_inputs: list[Any],
    compile_piece: Compile,
    pieces: Pieces,
) -> Callable[..., Any]:
    """Compile Dynamo's graph piece by piece, or as a whole if it is not to be cut or cannot be.

    Args:
        graph_module: Its nodes carry ``meta["example_value"]``.
        example_inputs: One for every placeholder.
        compile_piece: Makes a callable of a piece and its example inputs.
        pieces: Where to cut.
    """
    graph = graph_module.graph
    cuts = find_cuts(graph, pieces) if pieces else []
    if not cuts:
        return compile_piece(graph_module, example_inputs)
    numbers = {node: bisect.bisect_right(cuts, at) for at, node in enumerate(graph.nodes)}
    examples: dict[str, Any] = {node.name: node.meta.get("example_value") for node in graph.nodes}
    inputs = graph.find_nodes(op="placeholder")
    examples |= {node.name: value for node, value in zip(inputs, example_inputs, strict=True)}
    whole = split_in_pieces(graph_module, numbers.__getitem__)
    for call in whole.graph.find_nodes(op="call_module"):
        name = str(call.target)
        piece: Any = whole.get_submodule(name)
        names = [node.name for node in piece.graph.find_nodes(op="placeholder")]
        compiled = compile_piece(piece, [examples[name] for name in names])
        whole.delete_submodule(name)
        setattr(whole, name, compiled)
    forward: Callable[..., Any] = whole.forward
    return forward


def find_cuts(graph: fx.Graph, pieces: Pieces) -> list[int]:
    """Positions in a graph of Dynamo's before which a new piece begins, in order.

    Cuts are where few bytes cross, never between a value and an operator that overwrites it, nor
    inside an autocast or no_grad region.
    """
    facts = _Facts(graph)
    return _lean_cuts(facts) if pieces == "lean" else _equal_cuts(facts)


def _lean_cuts(facts: _Facts) -> list[int]:
    """Cuts that leave the least memory: what crosses them, and the largest piece's gradients."""
    total_bytes = facts.parameter_bytes[-1] if facts.parameter_bytes else 0
    best: tuple[int, list[int]] = (total_bytes, [])
    shares = {total_bytes // number for number in range(2, _MOST_LEAN_PIECES + 1)}
    ends = facts.lean_places()
    for share_bytes in sorted({max(share, facts.largest_parameter_bytes) for share in shares}):
        found = _fewest_crossing(facts, ends, share_bytes)
        if found is not None:
            best = min(best, found)
    cuts: list[int] = []
    for at in best[1]:
        if facts.sums_stay([*cuts, at]):
            cuts.append(at)
    return cuts


def _fewest_crossing(
    facts: _Facts, places: list[int], share_bytes: int
) -> tuple[int, list[int]] | None:
    """The cuts that the fewest bytes cross, and the bytes that they leave; None if there are none.

    Args:
        facts: The graph.
        places: Where it may be cut, in order.
        share_bytes: The most bytes of parameters in a piece.
    """
    end = len(facts.parameter_bytes) - 1
    # By place: the fewest bytes that cross cuts up to it, its own included, and the cut before.
    least: dict[int, tuple[int, int]] = {0: (0, 0)}
    for number, at in enumerate([*places, end]):
        for before in (0, *places[:number]):
            own_bytes = facts.parameter_bytes[at - 1] - facts.parameter_bytes[max(before - 1, 0)]
            if before not in least or own_bytes > share_bytes:
                continue
            crossing_bytes = 0 if at == end else facts.newly_crossing_bytes(before, at)
            found = (least[before][0] + crossing_bytes, before)
            least[at] = min(least.get(at, found), found)
    if end not in least:
        return None
    cuts: list[int] = []
    at = least[end][1]
    while at:
        cuts.insert(0, at)
        at = least[at][1]
    return least[end][0] + share_bytes, cuts


def _equal_cuts(facts: _Facts) -> list[int]:
    """Cuts into pieces with about equal shares of the parameters' bytes."""
    total_bytes = facts.parameter_bytes[-1] if facts.parameter_bytes else 0
    share_bytes = max(total_bytes / _MOST_PIECES, facts.largest_parameter_bytes)
    if not total_bytes or share_bytes > total_bytes / 2:
        return []
    num_pieces = int(total_bytes / share_bytes)
    cuts: list[int] = []
    for number in range(1, num_pieces):
        aim_bytes = total_bytes * number / num_pieces
        slack_bytes = total_bytes / num_pieces / 2
        first = bisect.bisect_left(facts.parameter_bytes, aim_bytes - slack_bytes)
        last = bisect.bisect_right(facts.parameter_bytes, aim_bytes + slack_bytes)
        choices = [at for at in facts.allowed if first < at <= last and at > (cuts or [0])[-1]]
        choices.sort(key=lambda at: (facts.crossing_bytes[at], at))
        found = next((at for at in choices if facts.sums_stay([*cuts, at])), None)
        if found is not None:
            cuts.append(found)
    return cuts


class _Facts:
    """What decides where a graph may be cut; lists are by position of its nodes."""

    def __init__(self, graph: fx.Graph) -> None:
        self._nodes = list(graph.nodes)
        self._position = {node: at for at, node in enumerate(self._nodes)}
        self._uses_at: dict[fx.Node, list[int]] = {
            node: [
                self._position[user] for user in node.users for _ in range(times_given(user, node))
            ]
            for node in self._nodes
        }
        self._summed = self._differentiable_uses()
        self._num_gradients: dict[tuple[int, fx.Node], int] = {}
        self.parameter_bytes, self.largest_parameter_bytes = self._parameters()
        self.crossing_bytes = self._crossing(before=len(self._nodes))
        self._old_crossing_bytes: dict[int, list[int]] = {}
        forbidden = self._forbidden()
        inputs = len(graph.find_nodes(op="placeholder"))
        self.allowed = [
            at
            for at in range(inputs + 1, len(self._nodes) - 1)
            if not forbidden[at] and self.crossing_bytes[at]
        ]

    def _differentiable_uses(self) -> list[list[tuple[int, fx.Node]]]:
        """By value that takes a gradient: where it is used, and through which alias."""
        uses: dict[fx.Node, list[tuple[int, fx.Node]]] = {}
        same: dict[fx.Node | None, fx.Node] = {}
        for node in self._nodes:
            if any(leaf.requires_grad for leaf in _tensors_of(node)):
                same[node] = same.get(_passed_through(node), node)
                uses.setdefault(same[node], []).extend((at, node) for at in self._uses_at[node])
        return list(uses.values())

    def _parameters(self) -> tuple[list[int], int]:
        """Bytes of the parameters that are used up to each node, and of the largest of them."""
        total_bytes = largest_bytes = 0
        up_to: list[int] = []
        seen: set[fx.Node] = set()
        for node in self._nodes:
            for argument in node.all_input_nodes if node.op != "output" else ():
                if argument.op != "placeholder" or argument in seen:
                    continue
                seen.add(argument)
                for parameter in _tensors_of(argument):
                    if isinstance(parameter, torch.nn.Parameter) and parameter.requires_grad:
                        total_bytes += _size_bytes(parameter)
                        largest_bytes = max(largest_bytes, _size_bytes(parameter))
            up_to.append(total_bytes)
        return up_to, largest_bytes

    def lean_places(self) -> list[int]:
        """Of the places between the same parameters, the one that the fewest bytes cross."""
        best: dict[int, int] = {}
        for at in self.allowed:
            other = best.setdefault(self.parameter_bytes[at - 1], at)
            if self.crossing_bytes[at] < self.crossing_bytes[other]:
                best[self.parameter_bytes[at - 1]] = at
        return sorted(best.values())

    def newly_crossing_bytes(self, before: int, at: int) -> int:
        """Bytes of what crosses a cut but did not cross the cut before."""
        if before not in self._old_crossing_bytes:
            self._old_crossing_bytes[before] = self._crossing(before=before)
        return self.crossing_bytes[at] - self._old_crossing_bytes[before][at]

    def _crossing(self, *, before: int) -> list[int]:
        """Bytes of what is made before each node and used there or later.

        Args:
            before: Counts what is made before this position.
        """
        crossing = [0] * (len(self._nodes) + 1)
        for at, node in enumerate(self._nodes[:before]):
            value = node.meta.get("example_value")
            if node.op not in ("placeholder", "get_attr") and isinstance(value, torch.Tensor):
                crossing[at + 1] += _size_bytes(value)
                crossing[max(self._uses_at[node], default=at) + 1] -= _size_bytes(value)
        return list(itertools.accumulate(crossing))

    def _forbidden(self) -> list[int]:
        """How many reasons there are not to cut before each node."""
        starts = [0] * (len(self._nodes) + 1)
        first_of_storage: dict[int, int] = {}
        depth = 0
        for at, node in enumerate(self._nodes):
            depth += _REGION_BOUNDS.get(getattr(node.target, "__name__", ""), 0)
            if node.target is SET_GRAD_ENABLED:
                depth += -1 if node.args[0] else 1
            if depth > 0:
                _between(starts, at, at + 1)
            if node.op in ("placeholder", "get_attr", "output"):
                continue
            if not isinstance(node.meta.get("example_value"), (torch.Tensor, torch.SymInt)):
                # What crosses becomes an output of a piece, which must be a tensor.
                _between(starts, at, max(self._uses_at[node], default=at))
            for storage in _storages_of(node):
                first_of_storage.setdefault(storage, at)
            for overwritten in _overwritten(node):
                for storage in _storages_of(overwritten) & first_of_storage.keys():
                    _between(starts, first_of_storage[storage], at)
        return list(itertools.accumulate(starts))

    def sums_stay(self, cuts: list[int]) -> bool:
        """Whether all gradients are summed in eager's order in spite of these cuts.

        Autograd adds what arrives for a value one by one, the last use first. A piece returns the
        sum of its uses: the same only for the first that arrives, or if the piece has one use.
        """
        for uses in self._summed:
            per_piece = collections.Counter(bisect.bisect_right(cuts, at) for at, _ in uses)
            last = max(per_piece, default=0)
            for at, node in uses:
                piece = bisect.bisect_right(cuts, at)
                if piece != last and (
                    per_piece[piece] > 1 or self._gradients_through(at, node) > 1
                ):
                    return False
        return True

    def _gradients_through(self, at: int, node: fx.Node) -> int:
        if (at, node) not in self._num_gradients:
            self._num_gradients[at, node] = num_gradients_through(self._nodes[at], node)
        return self._num_gradients[at, node]


def _tensors_of(node: fx.Node) -> list[torch.Tensor]:
    leaves = tree_leaves(node.meta.get("example_value"))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _storages_of(node: fx.Node) -> set[int]:
    return {storage_key(tensor) for tensor in _tensors_of(node)}


def _size_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _between(starts: list[int], first: int, last: int) -> None:
    """Count the positions between two nodes, in a list of differences."""
    starts[first + 1] += 1
    starts[last + 1] -= 1


def _passed_through(node: fx.Node) -> fx.Node | None:
    """The input that an operator returns unchanged: to autograd the two are one value."""
    if not node.all_input_nodes or node.op == "placeholder":
        return None
    source = node.all_input_nodes[0]
    value, given = node.meta.get("example_value"), source.meta.get("example_value")
    if not isinstance(value, torch.Tensor) or not isinstance(given, torch.Tensor):
        return None
    if getattr(node.target, "__name__", "") == "dropout":
        settings = dict(zip(("p", "training"), node.args[1:3], strict=False)) | node.kwargs
        return source if settings.get("p") == 0 or settings.get("training") is False else None
    is_same = (
        storage_key(value) == storage_key(given)
        and value.storage_offset() == given.storage_offset()
        and value.shape == given.shape
        and value.stride() == given.stride()
    )
    return source if is_same else None


def _overwritten(node: fx.Node) -> Iterator[fx.Node]:
    """What an operator of Dynamo's graph writes into, as far as its name tells."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    in_place = (
        (name.endswith("_") and not name.endswith("__"))
        or node.target in _IN_PLACE
        or node.kwargs.get("inplace") is True
    )
    if in_place:
        yield from node.all_input_nodes[:1]
    yield from (leaf for leaf in tree_leaves(node.kwargs.get("out")) if isinstance(leaf, fx.Node))
