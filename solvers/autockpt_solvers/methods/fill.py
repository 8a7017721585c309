"""Filling room that a plan leaves: runs are taken out again where what they made can be kept.

A run that repeats an op is taken out by keeping the values of its earlier run until it; whatever
ran only to feed it goes too. The room grows from the plan's own to a cap in a fixed number of
steps, so that which runs go, and in which order, depends on the plan and the cap alone: a larger
room takes out what a smaller one does, and more.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.methods.orders import Orders

_STEPS = 16


def fill(orders: Orders, order: Sequence[int], *, start: int, cap: int, room: int) -> list[int]:
    """Takes out runs of a plan that fits `start` until it needs all of `room`.

    Args:
        orders: The graph.
        order: A valid order whose peak is at most `start`.
        start: The room to begin with.
        cap: The room to end with; the same for every `room` below it.
        room: Bytes the graph may use, from `start` to `cap`.

    Returns:
        An order that fits `room` and runs a part of what `order` does.
    """
    filler = _Filler(orders, order)
    for step in range(_STEPS + 1):
        limit = start + (cap - start) * step // _STEPS
        if limit > room:
            break
        filler.take_out(limit)
    return filler.left()


@dataclass(slots=True)
class _Instance:
    """A value between one run of its op and the next: where it was made, and who reads it."""

    birth: int
    readers: list[int]

    @property
    def last(self) -> int:
        return self.readers[-1] if self.readers else self.birth


class _Filler:
    """An order, its bytes at every place, and what each of its runs made."""

    def __init__(self, orders: Orders, order: Sequence[int]) -> None:
        self.orders = orders
        self.order = order
        self.gone = bytearray(len(order))
        self.repeats: list[int] = []
        self.instances: list[list[_Instance]] = [[] for _ in orders.sizes]
        seen = set()
        for place, op in enumerate(order):
            if op in seen:
                self.repeats.append(place)
            seen.add(op)
            for s in orders.reads[op]:
                self.instances[s][-1].readers.append(place)
            for s in orders.writes[op]:
                self.instances[s].append(_Instance(place, []))
        self.is_repeat = set(self.repeats)
        change = np.zeros(len(order) + 1, dtype=np.int64)
        for s, instances in enumerate(self.instances):
            for instance in instances:
                change[instance.birth] += orders.sizes[s]
                end = len(order) if orders.graph.is_output[s] else instance.last + 1
                change[end] -= orders.sizes[s]
        working = np.array([orders.working[op] for op in order], dtype=np.int64)
        self.live = np.cumsum(change)[:-1] + working
        # Dearest per byte first; equal ones in the order they run.
        self.repeats.sort(key=lambda place: (-self._worth(place), place))

    def _worth(self, place: int) -> float:
        op = self.order[place]
        size = sum(self.orders.sizes[s] for s in self.orders.writes[op])
        return self.orders.runtime[op] / (size + 1)

    def left(self) -> list[int]:
        """The order without what was taken out."""
        return [op for op, gone in zip(self.order, self.gone, strict=True) if not gone]

    def take_out(self, limit: int) -> None:
        """Takes out every run that can go without a byte above `limit`."""
        for place in self.repeats:
            if not self.gone[place] and self._fits(place, limit):
                self._remove(place)

    def _at(self, storage: int, place: int) -> int:
        """Which instance of a storage is the one of `place`."""
        return bisect_right(self.instances[storage], place, key=lambda i: i.birth) - 1

    def _fits(self, place: int, limit: int) -> bool:
        """Whether the values of the run can be kept from their last readers before it."""
        kept = [
            (self.instances[s][self._at(s, place) - 1].last + 1, self.orders.sizes[s])
            for s in self.orders.writes[self.order[place]]
        ]
        if len(kept) == 1:  # the most common by far
            [(first, size)] = kept
            return first >= place or int(self.live[first:place].max()) + size <= limit
        for first, size in kept:
            self.live[first:place] += size
        fits = all(self.live[first:place].max(initial=0) <= limit for first, _ in kept)
        for first, size in kept:
            self.live[first:place] -= size
        return fits

    def _remove(self, place: int) -> None:
        """Takes out a run, and those that ran only for it."""
        orders, op = self.orders, self.order[place]
        self.gone[place] = 1
        self.live[place] -= orders.working[op]
        for s in orders.writes[op]:
            instances = self.instances[s]
            index = self._at(s, place)
            made, before = instances[index], instances[index - 1]
            size = orders.sizes[s]
            if made.readers:
                self.live[before.last + 1 : place] += size
                for reader in made.readers:
                    insort(before.readers, reader)
            else:
                self.live[place] -= size
            del instances[index]
        for s in orders.reads[op]:
            read = self.instances[s][self._at(s, place)]
            old = read.last
            read.readers.remove(place)
            if not orders.graph.is_output[s]:
                self.live[read.last + 1 : old + 1] -= orders.sizes[s]
            feeder = read.birth
            if feeder in self.is_repeat and not self.gone[feeder] and self._is_idle(feeder):
                self._remove(feeder)

    def _is_idle(self, place: int) -> bool:
        """Whether nothing reads what a run made."""
        return not any(
            self.instances[s][self._at(s, place)].readers
            for s in self.orders.writes[self.order[place]]
        )
