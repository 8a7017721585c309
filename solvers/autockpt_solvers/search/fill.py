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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.orders.facts import Orders

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
    filler = Filler(orders, order)
    for step in range(_STEPS + 1):
        limit = start + (cap - start) * step // _STEPS
        if limit > room:
            break
        filler.take_out(limit)
    return filler.left()


@dataclass(slots=True)
class _Instance:
    """A value between one run of its op and the next: where it was made, and who reads it.

    Attributes:
        size: Its bytes.
        birth: Place of the run that makes it.
        readers: Places of the runs that read it, ascending.
        before: The one that the run before made, if any.
    """

    size: int
    birth: int
    readers: list[int]
    before: _Instance | None

    @property
    def last(self) -> int:
        return self.readers[-1] if self.readers else self.birth


class Filler:
    """An order, its bytes at every place, and what each of its runs made."""

    def __init__(self, orders: Orders, order: Sequence[int]) -> None:
        self.orders = orders
        self.order = order
        self.gone = bytearray(len(order))
        self.repeats: list[int] = []
        self.first_runs: dict[int, int] = {}
        self.more_runs: dict[int, list[int]] = {}
        for place, op in enumerate(order):
            if self.first_runs.setdefault(op, place) != place:
                self.repeats.append(place)
                self.more_runs.setdefault(op, []).append(place)
        self.is_repeat = set(self.repeats)
        # Per storage that is looked at, what its op's runs made, and the same per run.
        self._instances: dict[int, list[_Instance]] = {}
        self._made: dict[int, list[_Instance]] = {}
        # Per run, the place where what would be kept for it is tightest, and its bytes there; as
        # others go, what is kept for it can only begin earlier.
        self.tightest = [0] * len(order)
        self.kept_bytes = [0] * len(order)
        self.live = orders.live_bytes(order)
        # Dearest per byte first; equal ones in the order they run.
        self.repeats.sort(key=lambda place: (-self._worth(place), place))

    def _runs(self, op: int) -> list[int]:
        return [self.first_runs[op], *self.more_runs.get(op, ())] if op in self.first_runs else []

    def _instances_of(self, storage: int) -> list[_Instance]:
        """What the runs of a storage's op made, as far as they have not been taken out.

        Whoever takes out a run that makes or reads it asks first, so it is built from all runs.
        """
        if storage not in self._instances:
            graph = self.orders.graph
            instances: list[_Instance] = []
            for place in self._runs(graph.producer[storage]):
                before = instances[-1] if instances else None
                instances.append(_Instance(graph.size(storage), place, [], before))
            self._instances[storage] = instances
            for place in sorted(p for op in graph.readers[storage] for p in self._runs(op)):
                instances[self._at(storage, place)].readers.append(place)
        return self._instances[storage]

    def _made_at(self, place: int) -> list[_Instance]:
        """What a run makes."""
        if place not in self._made:
            self._made[place] = [
                self._instances_of(s)[self._at(s, place)]
                for s in self.orders.writes[self.order[place]]
            ]
        return self._made[place]

    def _worth(self, place: int) -> float:
        op = self.order[place]
        size = sum(self.orders.sizes[s] for s in self.orders.writes[op])
        return self.orders.runtime[op] / (size + 1)

    def left(self) -> list[int]:
        """The order without what was taken out."""
        return [op for op, gone in zip(self.order, self.gone, strict=True) if not gone]

    def take_out(self, limit: int) -> None:
        """Takes out what runs can go without a byte above `limit`, in one pass, dearest first."""
        for place in self.repeats:
            # Nearly all of them still do not fit where they did not before.
            if self.gone[place] or self.live[self.tightest[place]] + self.kept_bytes[place] > limit:
                continue
            if self.fits(place, limit):
                self._remove(place)

    def _at(self, storage: int, place: int) -> int:
        """Which instance of a storage is the one of `place`."""
        return bisect_right(self._instances_of(storage), place, key=lambda i: i.birth) - 1

    def fits(self, place: int, limit: int) -> bool:
        """Whether the values of the run can be kept from their last readers before it."""
        kept = [(made.before.last + 1, made.size) for made in self._made_at(place) if made.before]
        first = min((first for first, _ in kept), default=place)
        if first >= place:
            return True
        for start, size in kept:
            self.live[start:place] += size
        tight = first + int(self.live[first:place].argmax())
        fits = bool(self.live[tight] <= limit)
        for start, size in kept:
            self.live[start:place] -= size
        self.tightest[place] = tight
        self.kept_bytes[place] = sum(size for start, size in kept if start <= tight)
        return fits

    def _remove(self, place: int) -> None:
        """Takes out a run, and those that ran only for it."""
        self.gone[place] = 1
        leaving = [place]
        while leaving:
            leaving += self._remove_one(leaving.pop())

    def _remove_one(self, place: int) -> list[int]:
        """Takes out a run; the runs that ran only for it are marked as gone."""
        orders, op = self.orders, self.order[place]
        idle = []
        self.live[place] -= orders.working[op]
        for s in orders.writes[op]:
            instances = self._instances_of(s)
            index = self._at(s, place)
            made, before = instances[index], instances[index - 1]
            size = made.size
            if made.readers:
                self.live[before.last + 1 : place] += size
                for reader in made.readers:
                    insort(before.readers, reader)
            else:
                self.live[place] -= size
            del instances[index]
            if index < len(instances):
                instances[index].before = before
        for s in orders.reads[op]:
            read = self._instances_of(s)[self._at(s, place)]
            old = read.last
            read.readers.remove(place)
            if not orders.graph.is_output[s]:
                self.live[read.last + 1 : old + 1] -= orders.sizes[s]
            feeder = read.birth
            if feeder in self.is_repeat and not self.gone[feeder] and self._is_idle(feeder):
                self.gone[feeder] = 1
                idle.append(feeder)
        return idle

    def _is_idle(self, place: int) -> bool:
        """Whether nothing reads what a run made."""
        return not any(made.readers for made in self._made_at(place))
