"""The solver's time in one planning, which all of its solves share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from autockpt_solvers import SearchReport, StopSearch, Watcher

# Of the time left, what one solve gets: a plan may have to be corrected after its trial, and lower
# rungs of the ladder need some time too.
_SHARE_OF_SOLVE = 0.75
# Of the time left, what the search for the smallest budget gets. It starts after a solve.
_SHARE_OF_MINIMUM = 0.5
_LEAST_S = 0.5  # a solve that is asked late still answers
# A search has stalled if it has gained less than this share of a step for so many seconds, or for
# this share of the time that it took to its last gain; or if no plan can gain more than the last
# share. Tuned on a 6-layer GPT-2 near its least budget: 13.93% after 8 s, 13.67% after 60 s.
_GAIN, _PATIENCE_S, _PATIENCE, _CLOSE = 0.003, 4.0, 0.5, 0.001


class Patience:
    """Watches a search, and ends it if waiting longer is not worth it.

    A long search gains little after its first seconds: most of what is left to its bound, no plan
    can gain.
    """

    def __init__(self, watch: Watcher | None, *, step_ns: int) -> None:
        """Watch one search.

        Args:
            watch: What else watches it.
            step_ns: The time of a step in which nothing is recomputed.
        """
        self._watch = watch
        self._step_ns = step_ns
        self._best_ns: int | None = None
        self._since_s = 0.0

    def __call__(self, report: SearchReport, /) -> None:
        """Take a report of the search.

        Raises:
            StopSearch: The search has stalled.
        """
        if self._watch is not None:
            self._watch(report)
        found_ns = report.recompute_ns
        if found_ns is None:
            return
        if self._best_ns is None or found_ns <= self._best_ns - _GAIN * self._step_ns:
            self._best_ns, self._since_s = found_ns, report.elapsed_s
        waited_s = report.elapsed_s - self._since_s
        is_close = found_ns - report.lower_bound_ns <= _CLOSE * self._step_ns
        if is_close or waited_s >= max(_PATIENCE_S, _PATIENCE * self._since_s):
            raise StopSearch


class SolvingTime:
    """How long the solves of one planning have taken.

    One planning may ask the solver several times: on several rungs, for several cuts of the
    forward, again after a trial, and for the smallest budget. Together they keep to one time limit.
    Capturing, profiling and trying plans do not count.
    """

    def __init__(self, *, ends_early: bool = False) -> None:
        """Start with no time spent.

        Args:
            ends_early: Whether a search ends before its time limit if it has stalled.
        """
        self.spent_s = 0.0
        self.ends_early = ends_early

    def watched(self, watch: Watcher | None, *, step_ns: int) -> Watcher | None:
        """What watches a search; it ends one that has stalled, if it may.

        Args:
            watch: What watches it otherwise.
            step_ns: The time of a step in which nothing is recomputed.
        """
        return Patience(watch, step_ns=step_ns) if self.ends_early else watch

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
