"""Apply an order planned for fixed input sizes to a graph traced with symbolic sizes.

The two graphs differ in a few operators: a slice over a whole dimension disappears if the size is
known, and stays if it is a symbol. Operators are paired in one pass over both sequences. Those that
only the traced graph has are placed right before they are first needed.

``difflib.SequenceMatcher`` does not fit: layers repeat, so it takes time quadratic in the number of
layers (38 s for 5,000 operators with a slice in each of 100 layers) and pairs one layer with
another because that match is longer.
"""

from __future__ import annotations

from collections.abc import Iterable

from autockpt.capture.joint import JointGraph, JointNode
from autockpt.lower.orders import RegionOrder

# The number of operators in a row that must match after a difference, and the longest difference.
_AGREEING = 3
_LONGEST = 12


def signatures(joint: JointGraph) -> tuple[str, ...]:
    """Describes each op of a graph by what does not depend on sizes."""
    return tuple(_signature(op) for op in joint.ops)


def _signature(op: JointNode) -> str:
    side = "backward" if op.is_backward else "forward"
    return f"{op.node.target} {side} {len(op.writes)}"


def aligned(order: RegionOrder, planned: tuple[str, ...], joint: JointGraph) -> RegionOrder | None:
    """Returns the order as positions in another graph, or None if the graphs differ too much.

    Args:
        order: The order for the planned graph.
        planned: The planned graph's signatures.
        joint: The graph to run.
    """
    pairs = _pairs(planned, signatures(joint))
    if pairs is None:
        return None
    adapter = _Adapter(joint, set(pairs.values()))
    forward = adapter.with_own_ops(pairs[op] for op in order.forward if op in pairs)
    forward += adapter.remaining_forward()
    backward = adapter.with_own_ops(pairs[op] for op in order.backward if op in pairs)
    backward += adapter.remaining_backward()
    replayed = frozenset(pairs[op] for op in order.replayed if op in pairs)
    if not _is_in_order(joint, forward) or not _is_in_order(joint, backward, is_backward=True):
        return None
    return RegionOrder(forward=tuple(forward), backward=tuple(backward), replayed=replayed)


def _pairs(planned: tuple[str, ...], traced: tuple[str, ...]) -> dict[int, int] | None:
    """Maps positions in the planned sequence to those of the same ops in the traced one."""
    pairs: dict[int, int] = {}
    i = j = 0
    while i < len(planned) and j < len(traced):
        if planned[i] == traced[j]:
            pairs[i] = j
            i, j = i + 1, j + 1
            continue
        skip = _skip(planned, traced, i, j)
        if skip is None:
            return None
        i, j = i + skip[0], j + skip[1]
    if len(planned) - i > _LONGEST or len(traced) - j > _LONGEST:
        return None
    return pairs


def _skip(
    planned: tuple[str, ...], traced: tuple[str, ...], i: int, j: int
) -> tuple[int, int] | None:
    """Returns the shortest difference after which the sequences match again."""
    for length in range(1, _LONGEST + 1):
        for left in range(length + 1):
            right = length - left
            behind = planned[i + left : i + left + _AGREEING]
            if behind == traced[j + right : j + right + _AGREEING]:
                return left, right
    return None


class _Adapter:
    """Places ops that have no planned counterpart right before the first op that reads them."""

    def __init__(self, joint: JointGraph, paired: set[int]) -> None:
        self._ops = joint.ops
        self._writers = {s: number for number, op in enumerate(joint.ops) for s in op.writes}
        self._own = set(range(len(joint.ops))) - paired
        self._placed: set[int] = set()

    def with_own_ops(self, order: Iterable[int]) -> list[int]:
        result: list[int] = []
        for number in order:
            self._add_own(number, result)
            result.append(number)
        return result

    def remaining_forward(self) -> list[int]:
        """Ops that the forward reads are placed already; this adds side effects and outputs."""
        return self._remaining(is_backward=False)

    def remaining_backward(self) -> list[int]:
        return self._remaining(is_backward=True)

    def _remaining(self, *, is_backward: bool) -> list[int]:
        result: list[int] = []
        for number in sorted(self._own - self._placed):
            if self._ops[number].is_backward is is_backward:
                self._add_own(number, result)
                self._placed.add(number)
                result.append(number)
        return result

    def _add_own(self, number: int, result: list[int]) -> None:
        for storage in self._ops[number].reads:
            writer = self._writers.get(storage)
            if writer is not None and writer in self._own and writer not in self._placed:
                self._placed.add(writer)
                self._add_own(writer, result)
                result.append(writer)


def _is_in_order(joint: JointGraph, order: list[int], *, is_backward: bool = False) -> bool:
    """Whether each op comes after the ops of its pass that make what it reads."""
    made: set[int] = set()
    writers = {
        s: number
        for number, op in enumerate(joint.ops)
        for s in op.writes
        if op.is_backward == is_backward
    }
    for number in order:
        if any(s in writers and s not in made for s in joint.ops[number].reads):
            return False
        made.update(joint.ops[number].writes)
    return True
