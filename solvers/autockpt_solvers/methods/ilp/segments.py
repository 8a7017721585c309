"""The graph as a row of segments, each with its part of the backward.

The forward pass is cut at its narrow places. The backward ops are assigned to the segments from the
last to the first, such that each mostly reads what its own segment wrote: they are the segment's
*backward*. A plan then is a row of windows, each some consecutive segments. What a later window
reads of an earlier one is kept, so windows can be planned one by one. Skips over many segments,
encoder outputs and the like are no special case: every window between their writer and their last
reader finds them kept.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.orders.cuts import crossing_bytes, narrow_places

if TYPE_CHECKING:
    from autockpt_solvers.orders.facts import GraphFacts

# Longer segments are cut again, where least crosses, so that windows stay small problems.
_MAX_SEGMENT_OPS = 20
# A segment this many segments away from every backward op is never recomputed.
_FAR = 6


class Segments:
    """Segments of a graph, and the facts that windows are made from.

    Attributes:
        facts: Facts about the graph.
        forward: The needed forward ops in the order they run.
        starts: Per segment, its first place in `forward`; one more entry for the end.
        segment: Per op, its segment; -1 if the op is not needed.
        backward_starts: Per segment, the first op of its backward, and one more entry. They fall:
            that of segment k is `backward[backward_starts[k + 1]:backward_starts[k]]`.
        before: Per backward op, the bytes in use before it runs, without kept forward storages.
        during: The same while it runs, with its workspace.
    """

    def __init__(self, facts: GraphFacts) -> None:
        self.facts = facts
        graph = facts.graph
        self.forward = [op for op in facts.by_rank if graph.is_needed[op]]
        self.starts = self._cut()
        self.num_segments = len(self.starts) - 1
        self.segment = [-1] * len(graph.ops)
        for k in range(self.num_segments):
            for place in range(self.starts[k], self.starts[k + 1]):
                self.segment[self.forward[place]] = k
        self.place = {op: k for k, op in enumerate(self.forward)}
        self.region_of_segment = [
            facts.region[self.forward[self.starts[k]]] for k in range(self.num_segments)
        ]
        self.backward = facts.backward_ops
        self._assign_backward()
        self.is_far = self._find_far()
        self.may_rerun = self._relevant()
        self._find_readers()
        self._find_crossing()
        self._stack_base()

    def _cut(self) -> list[int]:
        """Places of the cuts: narrow places, borders of regions, and more in segments too long."""
        crossing = crossing_bytes(self.facts, self.forward)
        cuts = {0, len(self.forward), *narrow_places(crossing)}
        region = self.facts.region
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

    def _assign_backward(self) -> None:
        """Assign the backward ops to segments, such that few bytes are read far from home."""
        graph, facts = self.facts.graph, self.facts
        num, count = len(self.backward), self.num_segments
        regions = np.array(self.region_of_segment)
        best = np.zeros((num + 1, count))
        for row, op in enumerate(self.backward):
            cost = np.zeros(count)
            for storage in facts.reads[op]:
                writer = graph.producer[storage]
                if writer >= graph.num_forward or graph.is_output[storage]:
                    continue
                first = self.segment[writer]
                readers = [self.segment[r] for r in graph.readers[storage] if r < graph.num_forward]
                last = max([first, *readers])
                weight = 1 + facts.sizes[storage]
                cost[:first] += weight * np.arange(first, 0, -1)
                cost[last + 1 :] += weight * np.arange(1, count - last)
            if (regions == facts.region[op]).any():
                cost[regions != facts.region[op]] += 1e18
            # best[row + 1][k]: least cost of the ops up to `row` if this one belongs to segment k.
            falling = np.minimum.accumulate(best[row][::-1])[::-1]
            best[row + 1] = falling + cost
        assigned = [0] * num
        low = 0
        for row in range(num - 1, -1, -1):
            options = best[row + 1][low:]
            low += int(options.size - 1 - np.argmin(options[::-1]))
            assigned[row] = low
        for row, op in enumerate(self.backward):
            self.segment[op] = assigned[row]
        rows = np.bincount(np.array(assigned, dtype=np.int64), minlength=count)
        self.backward_starts = [int(n) for n in np.cumsum(rows[::-1])[::-1]] + [0]

    def backward_rows(self, start: int, end: int) -> tuple[int, int]:
        """First and last row of `backward` for the window of segments `start` to `end`."""
        return self.backward_starts[end], self.backward_starts[start]

    def _find_far(self) -> list[bool]:
        """Per segment, whether every backward op is far from it, as in a frozen first part.

        To recompute it, what crosses every cut on the way to the backward would have to be kept.
        """
        with_backward = np.flatnonzero(-np.diff(np.array(self.backward_starts)))
        segments = np.arange(self.num_segments)
        gaps = np.abs(segments[:, None] - with_backward[None, :]).min(axis=1, initial=_FAR)
        return [bool(gap >= _FAR) for gap in gaps]

    def _relevant(self) -> list[bool]:
        """Per forward op, whether a plan may have a reason to run it again, or late."""
        graph, facts = self.facts.graph, self.facts
        relevant = [False] * graph.num_forward
        for op in range(graph.num_forward - 1, -1, -1):
            home = self.segment[op]
            if home < 0 or (graph.is_required[op] and not self.reruns(op)):
                continue
            relevant[op] = any(
                reader >= graph.num_forward or relevant[reader]
                for storage in facts.writes[op]
                for reader in graph.readers[storage]
            )
        return relevant

    def reruns(self, op: int) -> bool:
        """Whether a plan may run an op a second time."""
        return self.facts.rerunnable[op] and not self.is_far[self.segment[op]]

    def _find_readers(self) -> None:
        """Per storage, the last segment whose backward needs it, and its last late reader."""
        graph, facts = self.facts.graph, self.facts
        self.needed_until = [-1] * len(facts.sizes)
        self.late_until = [-1] * len(facts.sizes)
        self.forward_until = [-1] * len(facts.sizes)
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
        """Add up backward storages, outputs, and forward storages that are read late."""
        graph, facts = self.facts.graph, self.facts
        num, offset = len(self.backward), graph.num_forward
        born_now = [0] * (num + 1)
        change = [0] * (num + 2)
        for storage, writer in enumerate(graph.producer):
            size = facts.sizes[storage]
            if writer >= offset:
                last = max([writer, *graph.readers[storage]]) - offset
                change[writer - offset] += size
                born_now[writer - offset] += size
                if not graph.is_output[storage]:
                    change[last + 1] -= size
            elif graph.is_output[storage]:
                change[0] += size
            elif self.late_until[storage] >= 0:
                change[self.backward_starts[self.segment[writer]]] += size
                change[self.late_until[storage] - offset + 1] -= size
        live = 0
        self.before, self.during = [], []
        for row, op in enumerate(self.backward):
            live += change[row]
            self.before.append(live - born_now[row])
            self.during.append(live + facts.working[op])

    def passing(self, start: int) -> list[tuple[int, int]]:
        """Last forward reader's place and bytes of what crosses cut `start` for no backward."""
        return [
            (self.last_place[storage], self.facts.sizes[storage])
            for storage in self.crossing[start]
            if self.needed_until[storage] < start
        ]

    def _find_crossing(self) -> None:
        """Per cut, the storages that forward ops read across it; per place, the outputs made."""
        graph, facts = self.facts.graph, self.facts
        self.crossing: list[list[int]] = [[] for _ in range(self.num_segments + 1)]
        self.last_place = [-1] * len(facts.sizes)
        self.outputs_made = [0]
        for op in self.forward:
            made = 0
            for storage in facts.writes[op]:
                if graph.is_output[storage]:
                    made += facts.sizes[storage]
                    continue
                readers = [self.place.get(r, -1) for r in graph.readers[storage]]
                self.last_place[storage] = max(readers, default=-1)
                for cut in range(self.segment[op] + 1, self.forward_until[storage] + 1):
                    self.crossing[cut].append(storage)
            self.outputs_made.append(self.outputs_made[-1] + made)
