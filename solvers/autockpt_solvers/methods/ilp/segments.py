"""The graph as a chain: forward segments, the backward turn of each, what stands anyway.

The forward pass is cut at its narrow places. The backward ops are dealt to the segments in
falling order such that each mostly reads what its own segment wrote: those ops are the segment's
*turn*. A plan then is a row of windows, each a run of consecutive segments. What a later window
reads of an earlier one is kept whole, so windows can be planned one by one. Skips over many
segments, encoder outputs and the like are storages that every window between their writer and
their last reader finds kept: ordinary cases.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.orders.cuts import crossing_bytes, narrow_places

if TYPE_CHECKING:
    from autockpt_solvers.orders.facts import Orders

_MAX_SEGMENT_OPS = 20
_NEAR = 6  # segments; how far from a turn forward ops may run again in it


class Chain:
    """Segments of a graph and the facts windows are made from.

    Attributes:
        orders: The graph and its facts.
        forward: The needed forward ops in the order they run.
        starts: Per segment, its first place in `forward`; one more entry for the end.
        segment: Per op, its segment: forward ops by place, backward ops by turn; -1 if not needed.
        turn_starts: Per segment, the first backward op of its turn, and one more entry: turns fall,
            so the turn of segment k is `backward[turn_starts[k + 1]:turn_starts[k]]`.
        before: Per backward op, bytes that stand before it runs, kept forward storages not counted.
        during: The same while it runs, its workspace included.
    """

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        graph = orders.graph
        self.forward = [op for op in orders.by_rank if graph.is_needed[op]]
        self.starts = self._cut()
        self.num_segments = len(self.starts) - 1
        self.segment = [-1] * len(graph.ops)
        for k in range(self.num_segments):
            for place in range(self.starts[k], self.starts[k + 1]):
                self.segment[self.forward[place]] = k
        self.place = {op: k for k, op in enumerate(self.forward)}
        self.region_of_segment = [
            orders.region[self.forward[self.starts[k]]] for k in range(self.num_segments)
        ]
        self.backward = orders.backward_ops
        self._deal_turns()
        self.is_far = self._find_far()
        self.may_rerun = self._relevant()
        self._find_readers()
        self._find_crossing()
        self._stack_base()

    def _cut(self) -> list[int]:
        """Places of the cuts: narrow ones, region borders, and more where a segment is too long."""
        crossing = crossing_bytes(self.orders, self.forward)
        cuts = {0, len(self.forward), *narrow_places(crossing)}
        region = self.orders.region
        for place in range(1, len(self.forward)):
            if region[self.forward[place]] != region[self.forward[place - 1]]:
                cuts.add(place)
        done = False
        while not done:
            done = True
            ordered = sorted(cuts)
            for start, end in itertools.pairwise(ordered):
                if end - start > _MAX_SEGMENT_OPS:
                    third = (end - start) // 3
                    cuts.add(min(range(start + third, end - third), key=lambda p: (crossing[p], p)))
                    done = False
        return sorted(cuts)

    def _deal_turns(self) -> None:
        """Deals the backward ops to segments, falling, with the fewest bytes read out of turn."""
        graph, orders = self.orders.graph, self.orders
        num, count = len(self.backward), self.num_segments
        regions = np.array(self.region_of_segment)
        best = np.zeros((num + 1, count))
        for row, op in enumerate(self.backward):
            cost = np.zeros(count)
            for storage in orders.reads[op]:
                writer = graph.producer[storage]
                if writer >= graph.num_forward or graph.is_output[storage]:
                    continue
                first = self.segment[writer]
                readers = [self.segment[r] for r in graph.readers[storage] if r < graph.num_forward]
                last = max([first, *readers])
                weight = 1 + orders.sizes[storage]
                cost[:first] += weight * np.arange(first, 0, -1)
                cost[last + 1 :] += weight * np.arange(1, count - last)
            if (regions == orders.region[op]).any():
                cost[regions != orders.region[op]] += 1e18
            # best[row + 1][t]: least cost of the ops up to `row` when this one is in turn t.
            falling = np.minimum.accumulate(best[row][::-1])[::-1]
            best[row + 1] = falling + cost
        turns = [0] * num
        low = 0
        for row in range(num - 1, -1, -1):
            options = best[row + 1][low:]
            low += int(options.size - 1 - np.argmin(options[::-1]))
            turns[row] = low
        for row, op in enumerate(self.backward):
            self.segment[op] = turns[row]
        rows = np.bincount(np.array(turns, dtype=np.int64), minlength=count)
        self.turn_starts = [int(n) for n in np.cumsum(rows[::-1])[::-1]] + [0]

    def turn(self, start: int, end: int) -> tuple[int, int]:
        """Rows of `backward` in the turn of the window of segments `start` to `end`."""
        return self.turn_starts[end], self.turn_starts[start]

    def _find_far(self) -> list[bool]:
        """Per segment, whether all turns are far from it; it is run once, as in a frozen prefix.

        Were it run again, every border on the way to the turn would have to be kept for that.
        """
        with_turn = np.flatnonzero(-np.diff(np.array(self.turn_starts)))
        segments = np.arange(self.num_segments)
        gaps = np.abs(segments[:, None] - with_turn[None, :]).min(axis=1, initial=_NEAR)
        return [bool(gap >= _NEAR) for gap in gaps]

    def _relevant(self) -> list[bool]:
        """Per forward op, whether a plan may have a reason to run it again, or late."""
        graph, orders = self.orders.graph, self.orders
        relevant = [False] * graph.num_forward
        for op in range(graph.num_forward - 1, -1, -1):
            home = self.segment[op]
            if home < 0 or (graph.is_required[op] and not self.reruns(op)):
                continue
            relevant[op] = any(
                reader >= graph.num_forward or relevant[reader]
                for storage in orders.writes[op]
                for reader in graph.readers[storage]
            )
        return relevant

    def reruns(self, op: int) -> bool:
        """Whether a plan may run an op a second time."""
        return self.orders.rerunnable[op] and not self.is_far[self.segment[op]]

    def _find_readers(self) -> None:
        """Per storage, the last segment that needs it in its turn, and its last late reader."""
        graph, orders = self.orders.graph, self.orders
        self.needed_until = [-1] * len(orders.sizes)
        self.late_until = [-1] * len(orders.sizes)
        self.forward_until = [-1] * len(orders.sizes)
        for storage, writer in enumerate(graph.producer):
            home = self.segment[writer]
            if writer >= graph.num_forward or graph.is_output[storage] or home < 0:
                continue
            for reader in graph.readers[storage]:
                at = self.segment[reader]
                if reader < graph.num_forward:
                    if at >= 0:
                        self.forward_until[storage] = max(self.forward_until[storage], at)
                    if not self.may_rerun[reader]:
                        continue
                elif at < home:
                    self.late_until[storage] = max(self.late_until[storage], reader)
                self.needed_until[storage] = max(self.needed_until[storage], at)

    def _stack_base(self) -> None:
        """Adds up backward storages, outputs, and forward storages read after their own turn."""
        graph, orders = self.orders.graph, self.orders
        num, offset = len(self.backward), graph.num_forward
        born_now = [0] * (num + 1)
        change = [0] * (num + 2)
        for storage, writer in enumerate(graph.producer):
            size = orders.sizes[storage]
            if writer >= offset:
                last = max([writer, *graph.readers[storage]]) - offset
                change[writer - offset] += size
                born_now[writer - offset] += size
                if not graph.is_output[storage]:
                    change[last + 1] -= size
            elif graph.is_output[storage]:
                change[0] += size
            elif self.late_until[storage] >= 0:
                change[self.turn_starts[self.segment[writer]]] += size
                change[self.late_until[storage] - offset + 1] -= size
        live = 0
        self.before, self.during = [], []
        for row, op in enumerate(self.backward):
            live += change[row]
            self.before.append(live - born_now[row])
            self.during.append(live + orders.working[op])

    def passing(self, start: int) -> list[tuple[int, int]]:
        """Last forward reader's place and bytes of what passes cut `start` unneeded by any turn."""
        return [
            (self.last_place[storage], self.orders.sizes[storage])
            for storage in self.crossing[start]
            if self.needed_until[storage] < start
        ]

    def _find_crossing(self) -> None:
        """Per cut, the storages that forward ops read across it; per place, the outputs made."""
        graph, orders = self.orders.graph, self.orders
        self.crossing: list[list[int]] = [[] for _ in range(self.num_segments + 1)]
        self.last_place = [-1] * len(orders.sizes)
        self.outputs_made = [0]
        for op in self.forward:
            made = 0
            for storage in orders.writes[op]:
                if graph.is_output[storage]:
                    made += orders.sizes[storage]
                    continue
                readers = [self.place.get(r, -1) for r in graph.readers[storage]]
                self.last_place[storage] = max(readers, default=-1)
                for cut in range(self.segment[op] + 1, self.forward_until[storage] + 1):
                    self.crossing[cut].append(storage)
            self.outputs_made.append(self.outputs_made[-1] + made)
