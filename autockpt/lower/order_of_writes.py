"""Readers of a storage that a graph overwrites keep their place before or after it.

The engine orders ops by what they read and write. So an op that overwrites a storage writes an
empty storage of its own, which later readers read, and reads one of each reader before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autockpt.capture.captured import CapturedGraph
from autockpt.capture.joint import JointNode
from autockpt.capture.nodes import written_arguments


class OrderOfWrites:
    """Adds such storages to the ops of captured graphs, one after the other."""

    def __init__(
        self, graphs: Sequence[CapturedGraph], add_storage: Callable[[str, int], int]
    ) -> None:
        """Begin before the first op.

        Args:
            graphs: The captured graphs.
            add_storage: Adds a storage of a name and of so many bytes to the engine's graph.
        """
        self._graphs = graphs
        self._add_storage = add_storage
        # By graph and storage: what has read it since it was overwritten last, and what did that.
        self._looked_at: dict[tuple[int, int], list[int]] = {}
        self._changed: dict[tuple[int, int], int] = {}

    def keep(self, region: int, op: JointNode, reads: list[int], writes: list[int]) -> None:
        """Let an op keep its place.

        Args:
            region: The graph.
            op: The op, of which all earlier ones were added.
            reads: What it reads; may be added to.
            writes: What it writes; may be added to.
        """
        joint = self._graphs[region].joint
        touched = {s for parent in op.node.all_input_nodes for s in joint.node_storages[parent]}
        touched &= joint.mutated_storages
        if not touched:
            return
        changed = {s for node in written_arguments(op.node) for s in joint.node_storages[node]}
        for storage in sorted(touched):
            place = region, storage
            if place in self._changed:
                reads.append(self._changed[place])
            done = self._add_storage(f"g{region}.{op.node.name}.order", 0)
            writes.append(done)
            if storage in changed:
                reads.extend(self._looked_at.pop(place, ()))
                self._changed[place] = done
            else:
                self._looked_at.setdefault(place, []).append(done)
