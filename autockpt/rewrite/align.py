"""An order planned for some sizes of the inputs, for a graph traced with sizes left open.

The two graphs have the same operators but for a few: a slice over a whole dimension is nothing
where the size is known, and an operator where it is a symbol. Operators are paired along both
sequences; those that only the traced graph has are put where they are first needed.
"""

from __future__ import annotations

from collections.abc import Iterable

from autockpt.capture.joint import JointGraph, JointNode
from autockpt.lower.orders import RegionOrder

# Operators in a row that must agree behind a difference, and the longest difference.
_AGREEING = 3
_LONGEST = 12


def signatures(joint: JointGraph) -> tuple[str, ...]:
    """What is compared of each op of a graph: nothing that depends on sizes."""
    return tuple(_signature(op) for op in joint.ops)


def _signature(op: JointNode) -> str:
    side = "backward" if op.is_backward else "forward"
    return f"{op.node.target} {side} {len(op.writes)}"


def aligned(order: RegionOrder, planned: tuple[str, ...], joint: JointGraph) -> RegionOrder | None:
    """The order in positions of another graph's ops; None where the graphs are too unlike.

    Args:
        order: For the graph that was planned.
        planned: That graph's signatures.
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
    """Positions in both sequences of ops that stand for each other."""
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
    """The shortest difference behind which the sequences agree again."""
    for length in range(1, _LONGEST + 1):
        for left in range(length + 1):
            right = length - left
            behind = planned[i + left : i + left + _AGREEING]
            if behind == traced[j + right : j + right + _AGREEING]:
                return left, right
    return None


class _Adapter:
    """Puts ops that have no planned counterpart in front of the first op that reads them."""

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
        """What the forward alone reads is placed by now; effects and outputs are not."""
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
    """Whether ops stand behind those of the pass that make what they read."""
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
