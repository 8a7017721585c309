"""The time of one planning, and what its solves may take of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from autockpt_solvers import Result, SearchReport, StopSearch, Watcher

# Of the time left, what one solve gets: a plan may have to be corrected after its trial, and lower
# rungs of the ladder need some time too.
_SHARE_OF_SOLVE = 0.75
# Of the time left, what the search for the smallest budget gets. It starts after a solve.
_SHARE_OF_MINIMUM = 0.5
# Of the time left, what one of many solves gets for calls that share a backward.
_SHARE_OF_MANY = 1 / 3
_LEAST_S = 0.5  # a solve that is asked late still answers
# What is still to be done after a solve, such as trying the plan, as a share of what was done
# before: capturing, measuring, running eager's step.
_SHARE_OF_TRIAL = 0.5
# Of the limit, what solves have together if capturing alone takes that long.
_LEAST_SHARE = 1 / 3
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
    """How long one planning, and the solves in it, have taken.

    One planning may ask the solver several times: on several rungs, for several cuts of the
    forward, again after a trial, and for the smallest budget. Together they keep to one time limit.

    A limit that you set is for the solves alone. The usual one is for the whole planning: the more
    time capturing has taken, the less is left to the solver.
    """

    def __init__(
        self, *, ends_early: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with no time spent.

        Args:
            ends_early: Whether a search ends before its time limit if it has stalled, and the limit
                is for the whole planning.
            clock: Returns the time in seconds.
        """
        self.spent_s = 0.0
        self.ends_early = ends_early
        self._clock = clock
        self._began_s = clock()
        self._in_solver_s = 0.0  # with the time in which kernels are compiled

    def watched(self, watch: Watcher | None, *, step_ns: int) -> Watcher | None:
        """What watches a search; it ends one that has stalled, if it may.

        Args:
            watch: What watches it otherwise.
            step_ns: The time of a step in which nothing is recomputed.
        """
        return Patience(watch, step_ns=step_ns) if self.ends_early else watch

    def result(self, ask: Callable[[], Result]) -> Result:
        """Ask the solver, and count the time that it reports.

        Args:
            ask: Asks it.
        """
        with self.uncounted():
            result = ask()
        self.spent_s += result.solve_time_s
        return result

    @contextlib.contextmanager
    def counted(self, limit_s: float) -> Iterator[None]:
        """Count the time of a search that does not tell how long it took.

        Args:
            limit_s: The search's time limit. What it took beyond that was no search: kernels are
                compiled, once per installation.
        """
        began_s = self._clock()
        try:
            with self.uncounted():
                yield
        finally:
            self.spent_s += min(self._clock() - began_s, limit_s)

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """Leave out the time of a call of the solver, in which kernels may be compiled."""
        began_s = self._clock()
        try:
            yield
        finally:
            self._in_solver_s += self._clock() - began_s

    def for_a_solve(self, limit_s: float, *, is_one_of_many: bool = False) -> float:
        """The seconds that the next solve may take, of a limit for the whole planning."""
        return self._share(limit_s, _SHARE_OF_MANY if is_one_of_many else _SHARE_OF_SOLVE)

    def for_a_minimum(self, limit_s: float) -> float:
        """The seconds that a search for the smallest budget may take."""
        return self._share(limit_s, _SHARE_OF_MINIMUM)

    def is_over(self, limit_s: float) -> bool:
        """Whether no time is left."""
        return self._left_s(limit_s) <= min(_LEAST_S, limit_s / 2)

    def _share(self, limit_s: float, share: float) -> float:
        return max(min(_LEAST_S, limit_s), self._left_s(limit_s) * share)

    def _left_s(self, limit_s: float) -> float:
        all_s = limit_s
        if self.ends_early:
            other_s = self._clock() - self._began_s - self._in_solver_s
            all_s = max(limit_s * _LEAST_SHARE, limit_s - (1 + _SHARE_OF_TRIAL) * other_s)
        return all_s - self.spent_s
