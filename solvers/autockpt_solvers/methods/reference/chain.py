"""`chain`: the dynamic programme for heterogeneous chains.

Also known as Rotor: Beaumont, Eyraud-Dubois, Herrmann, Joly and Shilova, "Optimal checkpointing for
heterogeneous chains: how to train deep neural networks with limited memory" (INRIA research report
RR-9302, 2019; ACM Transactions on Mathematical Software, 2024). To reverse a row of segments, keep
all that the first one saves and go on behind it; or run to some segment, keep only what enters
there, and reverse the far part and then the near one. The table has the least time per row and
number of memory units.
Guarantee: least time among such (memory-persistent) plans in the chain's model, with memory rounded
up to units. Without that restriction the problem is NP-hard, as they show.
Complexity: segments^3 x units, on vectors; segments are joined until there are at most 48.
Weakness: a segment is kept whole or not at all. The model has no skips over segments and no
gradients that add up, so smaller budgets are tried too, and the simulator decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autockpt_solvers.attempt import Attempt
from autockpt_solvers.methods.segment_chain import SegmentChain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autockpt_solvers.methods.segment_chain import Move
    from autockpt_solvers.problem import Problem
    from autockpt_solvers.session import Session

_MAX_SEGMENTS = 48  # of the chain; more are joined
_UNITS = 400  # of memory, from none to the budget
_NEVER = 1 << 60  # ns; does not fit
_TRY_EVERY = 4  # units from one budget that is tried to the next


class Table:
    """Least time to reverse every row of segments in every number of units."""

    def __init__(self, segments: SegmentChain, budget: int) -> None:
        self.num = len(segments.ops)
        self.unit_bytes = max(1, -(-budget // _UNITS))
        self.runtime = segments.runtime_ns
        self.border = [self._units(b) for b in segments.border_bytes]
        self.saved = [self._units(b) for b in segments.saved_bytes]
        self.back = [self._units(b) for b in segments.back_bytes]
        self.least: dict[tuple[int, int], NDArray[np.int64]] = {}
        self.choice: dict[tuple[int, int], NDArray[np.int64]] = {}
        for length in range(1, self.num + 1):
            for first in range(self.num - length + 1):
                self._fill(first, first + length)

    def _units(self, size_bytes: int) -> int:
        return -(-size_bytes // self.unit_bytes)

    def _fill(self, first: int, last: int) -> None:
        """One row; choice `first` means to keep the first segment, others where to split."""
        units = np.arange(_UNITS + 1)
        needed = self.saved[first] + self.back[first]
        least = np.where(units >= needed, self.runtime[first], _NEVER)
        choice = np.full(_UNITS + 1, first)
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

    def moves(self, first: int, last: int, units: int) -> list[Move]:
        """The plan for a row that can be reversed in `units`."""
        if first == last:
            return []
        middle = int(self.choice[first, last][units])
        if middle == first:
            behind = self.moves(first + 1, last, units - self.saved[first])
            return [("run", first), *behind, ("back", first)]
        return [
            *(("run", k) for k in range(first, middle)),
            *self.moves(middle, last, units - self.border[middle]),
            *self.moves(first, middle, units),
        ]


def _less(column: NDArray[np.int64], taken: int) -> NDArray[np.int64]:
    """A column shifted by `taken` units."""
    shifted = np.full_like(column, _NEVER)
    if taken < column.size:
        shifted[taken:] = column[: column.size - taken]
    return shifted


def solve_chain(problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
    """Offer the plans of the table for the budget and for smaller ones."""
    deadline = session.clock.until(time_limit_s)
    segments = SegmentChain(session.facts, _MAX_SEGMENTS)
    if not segments.is_chain or problem.available_bytes <= 0:
        return Attempt(orders=())
    table = Table(segments, problem.available_bytes)
    whole = (0, table.num)
    found = []
    seen: set[tuple[Move, ...]] = set()
    for units in range(_UNITS, 0, -_TRY_EVERY):
        if table.least[whole][units] >= _NEVER or session.clock.now() > deadline:
            break
        plan = table.moves(*whole, units)
        if tuple(plan) not in seen:
            seen.add(tuple(plan))
            found.append(segments.order(plan))
    return Attempt(orders=tuple(found))
