"""`chain`: the dynamic programme for heterogeneous chains.

Also known as Rotor: Beaumont, Eyraud-Dubois, Herrmann, Joly and Shilova, "Optimal checkpointing for
heterogeneous chains: how to train deep neural networks with limited memory" (INRIA research report
RR-9302, 2019; ACM Transactions on Mathematical Software, 2024). A stretch of stages is turned back
either by keeping all that its first stage saves and going on behind it, or by running to some
stage, keeping only what enters there, turning back the far part and then the near one. The table
holds the least time per stretch and number of memory slots.
Guarantee: least time among such (memory-persistent) plans for the chain's model, memory rounded up
to slots; without that restriction the problem is NP-hard, as they show.
Complexity: stages^3 x slots, on vectors; stages are merged until there are at most 48.
Weakness: a stage is kept whole or not at all; skips over stages, and gradients that pile up, are
not in the model, so several smaller rooms are tried and the simulator has the last word.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.methods.reference.stages import Stages
from autockpt_solvers.orders.facts import orders_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autockpt_solvers.methods.reference.stages import Move
    from autockpt_solvers.problem import Problem

_MAX_STAGES = 48
_SLOTS = 400
_NEVER = 1 << 60


class Table:
    """Least time to turn back every stretch of stages in every number of slots."""

    def __init__(self, stages: Stages, room_bytes: int) -> None:
        self.num = len(stages.ops)
        self.slot_bytes = max(1, -(-room_bytes // _SLOTS))
        self.runtime = stages.runtime_ns
        self.border = [self._slots(b) for b in stages.border_bytes]
        self.saved = [self._slots(b) for b in stages.saved_bytes]
        self.back = [self._slots(b) for b in stages.back_bytes]
        self.least: dict[tuple[int, int], NDArray[np.int64]] = {}
        self.choice: dict[tuple[int, int], NDArray[np.int64]] = {}
        for length in range(1, self.num + 1):
            for first in range(self.num - length + 1):
                self._fill(first, first + length)

    def _slots(self, size_bytes: int) -> int:
        return -(-size_bytes // self.slot_bytes)

    def _fill(self, first: int, last: int) -> None:
        """One stretch; choice `first` means keeping the first stage, else where to split."""
        slots = np.arange(_SLOTS + 1)
        turn = self.saved[first] + self.back[first]
        least = np.where(slots >= turn, self.runtime[first], _NEVER)
        choice = np.full(_SLOTS + 1, first)
        if last - first > 1:
            rest = _less(self.least[first + 1, last], self.saved[first])
            least = np.maximum(least, np.minimum(_NEVER, rest + self.runtime[first]))
            ahead = 0
            for middle in range(first + 1, last):
                ahead += self.runtime[middle - 1]
                far = _less(self.least[middle, last], self.border[middle])
                split = np.minimum(_NEVER, ahead + far + self.least[first, middle])
                better = split < least
                least = np.where(better, split, least)
                choice = np.where(better, middle, choice)
        self.least[first, last] = least
        self.choice[first, last] = choice

    def moves(self, first: int, last: int, slots: int) -> list[Move]:
        """The plan for a stretch that can be turned back in `slots`."""
        if first == last:
            return []
        middle = int(self.choice[first, last][slots])
        if middle == first:
            behind = self.moves(first + 1, last, slots - self.saved[first])
            return [("run", first), *behind, ("back", first)]
        return [
            *(("run", k) for k in range(first, middle)),
            *self.moves(middle, last, slots - self.border[middle]),
            *self.moves(first, middle, slots),
        ]


def _less(column: NDArray[np.int64], taken: int) -> NDArray[np.int64]:
    """A column seen with `taken` slots gone."""
    shifted = np.full_like(column, _NEVER)
    if taken < column.size:
        shifted[taken:] = column[: column.size - taken]
    return shifted


def solve_chain(problem: Problem, *, time_limit_s: float, seed: int) -> Attempt:
    """Offers the plans of the table for the room and for smaller ones."""
    del seed
    deadline = time.monotonic() + time_limit_s
    stages = Stages(orders_of(problem.graph), _MAX_STAGES)
    if not stages.is_chain or problem.room_bytes <= 0:
        return Attempt(orders=())
    table = Table(stages, problem.room_bytes)
    whole = (0, table.num)
    found = []
    seen: set[tuple[Move, ...]] = set()
    for slots in range(_SLOTS, 0, -4):
        if table.least[whole][slots] >= _NEVER or time.monotonic() > deadline:
            break
        plan = table.moves(*whole, slots)
        if tuple(plan) not in seen:
            seen.add(tuple(plan))
            found.append(stages.order(plan))
    return Attempt(orders=tuple(found))
