"""The solver's time in one planning, which all of its solves share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

# Of the time left, what one solve gets: a plan may have to be corrected after its trial, and lower
# rungs of the ladder need some time too.
_SHARE_OF_SOLVE = 0.75
# Of the time left, what the search for the smallest budget gets. It starts after a solve.
_SHARE_OF_MINIMUM = 0.5
_LEAST_S = 0.5  # a solve that is asked late still answers


class SolvingTime:
    """How long the solves of one planning have taken.

    One planning may ask the solver several times: on several rungs, for several cuts of the
    forward, again after a trial, and for the smallest budget. Together they keep to one time limit.
    Capturing, profiling and trying plans do not count.
    """

    def __init__(self) -> None:
        self.spent_s = 0.0

    def spend(self, seconds: float) -> None:
        """Count time that the solver took."""
        self.spent_s += seconds

    @contextlib.contextmanager
    def counted(self, limit_s: float) -> Iterator[None]:
        """Count the time of a search that does not tell how long it took.

        Args:
            limit_s: The search's time limit. What it took beyond that was no search: kernels are
                compiled, once per installation.
        """
        began_s = time.monotonic()
        try:
            yield
        finally:
            self.spend(min(time.monotonic() - began_s, limit_s))

    def for_a_solve(self, limit_s: float) -> float:
        """The seconds that the next solve may take, of a limit for the whole planning."""
        return self._left(limit_s, _SHARE_OF_SOLVE)

    def for_a_minimum(self, limit_s: float) -> float:
        """The seconds that a search for the smallest budget may take."""
        return self._left(limit_s, _SHARE_OF_MINIMUM)

    def _left(self, limit_s: float, share: float) -> float:
        return max(min(_LEAST_S, limit_s), (limit_s - self.spent_s) * share)
