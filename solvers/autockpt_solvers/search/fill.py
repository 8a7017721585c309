"""Filling up: repeated runs are taken out of a plan again, as far as a larger budget allows.

A repeated run is taken out by keeping the values of the run before it. Whatever ran only to feed it
goes too. The limit grows from the plan's own budget to a cap in a fixed number of steps. So which
runs go, and in which order, depends on the plan and the cap alone: a larger budget takes out what a
smaller one does, and more.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autockpt_solvers.clock import Clock
    from autockpt_solvers.orders.facts import GraphFacts

_STEPS = 16  # limits from the plan's budget to the cap


def fill(
    facts: GraphFacts,
    order: Sequence[int],
    *,
    start: int,
    cap: int,
    budget: int,
    clock: Clock | None = None,
) -> list[int]:
    """Take runs out of a plan that fits `start` until it needs all of `budget`.

    Args:
        facts: The graph.
        order: A valid order whose peak is at most `start`.
        start: The first limit.
        cap: The last limit, the same for every `budget` below it.
        budget: Bytes that the graph may use, from `start` to `cap`.
        clock: Once its time is over, no more is taken out.

    Returns:
        An order that fits `budget` and runs a part of what `order` runs.
    """
    filler = Filler(facts, order)
    for step in range(_STEPS + 1):
        limit = start + (cap - start) * step // _STEPS
        if limit > budget:
            break
        filler.take_out(limit, clock)
    return filler.left()


@dataclass(slots=True)
class _Instance:
    """A value of a storage, from one run of its op to the next.

    Attributes:
        size: Its bytes.
        birth: Place of the run that writes it.
        readers: Places of the runs that read it, ascending.
        before: The value that the run before wrote, if any.
    """

    size: int
    birth: int
    readers: list[int]
    before: _Instance | None

    @property
    def last(self) -> int:
        return self.readers[-1] if self.readers else self.birth


class Filler:
    """An order, its bytes at every place, and the values that its runs write."""

    def __init__(self, facts: GraphFacts, order: Sequence[int]) -> None:
        self.facts = facts
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
        # Per storage that is looked at, the values that its op's runs write; the same per run.
        self._instances: dict[int, list[_Instance]] = {}
        self._made: dict[int, list[_Instance]] = {}
        # Per run, the place where keeping the values instead is tightest, and their bytes there. As
        # other runs go, these values can only have to be kept from an earlier place.
        self.tightest = [0] * len(order)
        self.kept_bytes = [0] * len(order)
        self.live = facts.live_bytes(order)
        # The most time per byte first, ties in the order they run.
        self.repeats.sort(key=lambda place: (-self._worth(place), place))

    def _runs(self, op: int) -> list[int]:
        return [self.first_runs[op], *self.more_runs.get(op, ())] if op in self.first_runs else []

    def _instances_of(self, storage: int) -> list[_Instance]:
        """The values of a storage, by the runs of its op that are left.

        They are built from all runs: before a run that writes or reads one is taken out, they are
        asked for.
        """
        if storage not in self._instances:
            graph = self.facts.graph
            instances: list[_Instance] = []
            for place in self._runs(graph.producer[storage]):
                before = instances[-1] if instances else None
                instances.append(_Instance(graph.size(storage), place, [], before))
            self._instances[storage] = instances
            for place in sorted(p for op in graph.readers[storage] for p in self._runs(op)):
                instances[self._at(storage, place)].readers.append(place)
        return self._instances[storage]

    def _made_at(self, place: int) -> list[_Instance]:
        """The values that a run writes."""
        if place not in self._made:
            self._made[place] = [
                self._instances_of(s)[self._at(s, place)]
                for s in self.facts.writes[self.order[place]]
            ]
        return self._made[place]

    def _worth(self, place: int) -> float:
        op = self.order[place]
        size = sum(self.facts.sizes[s] for s in self.facts.writes[op])
        return self.facts.runtime[op] / (size + 1)

    def left(self) -> list[int]:
        """The order without the runs that were taken out."""
        return [op for op, gone in zip(self.order, self.gone, strict=True) if not gone]

    def take_out(self, limit: int, clock: Clock | None = None) -> None:
        """Take out the runs that can go within `limit`, in one pass, most time per byte first."""
        for place in self.repeats:
            if clock is not None and clock.is_over:
                return
            # Nearly every run that did not fit before still does not fit at the same place.
            if self.gone[place] or self.live[self.tightest[place]] + self.kept_bytes[place] > limit:
                continue
            if self.fits(place, limit):
                self._remove(place)

    def _at(self, storage: int, place: int) -> int:
        """Index of the value of a storage at a place."""
        return bisect_right(self._instances_of(storage), place, key=lambda i: i.birth) - 1

    def fits(self, place: int, limit: int) -> bool:
        """Whether the values of a run can be kept from their last readers before it."""
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
        """Take out a run, and the runs that were only for it."""
        self.gone[place] = 1
        leaving = [place]
        while leaving:
            leaving += self._remove_one(leaving.pop())

    def _remove_one(self, place: int) -> list[int]:
        """Take out a run; returns the runs that were only for it, marked as gone."""
        facts, op = self.facts, self.order[place]
        idle = []
        self.live[place] -= facts.working[op]
        for s in facts.writes[op]:
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
        for s in facts.reads[op]:
            read = self._instances_of(s)[self._at(s, place)]
            old = read.last
            read.readers.remove(place)
            if not facts.graph.is_output[s]:
                self.live[read.last + 1 : old + 1] -= facts.sizes[s]
            feeder = read.birth
            if feeder in self.is_repeat and not self.gone[feeder] and self._is_idle(feeder):
                self.gone[feeder] = 1
                idle.append(feeder)
        return idle

    def _is_idle(self, place: int) -> bool:
        """Whether nothing reads the values of a run."""
        return not any(made.readers for made in self._made_at(place))
