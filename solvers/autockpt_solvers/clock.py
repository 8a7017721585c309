"""The time of one search: how much is left, and who watches it.

Every loop of the engine that may take long looks at the clock. The same look tells a watcher what
the search is at. So a time limit, a watcher that ends the search and progress reports need no
threads, no signals and no globals: the clock is part of the session.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

_LEAST_S = 0.05  # a search that is asked late still answers
_BETWEEN_REPORTS_S = 0.25


class StopSearch(Exception):  # noqa: N818 - an order, like StopIteration, and not an error
    """Raise it in a watcher to end the search; the best plan so far is returned."""


class OutOfTime(Exception):  # noqa: N818 - caught by whoever asked; never leaves the engine
    """Ends what cannot return a part of its answer, such as the building of a program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchReport:
    """What a search has reached.

    Attributes:
        stage: What it is doing, in words, such as `"ordering the backward pass"`.
        recompute_ns: Recompute time of the cheapest plan that fits; None if there is none yet.
        lower_bound_ns: No plan of the class that is searched recomputes less, as far as proven.
        elapsed_s: Time since the search began, without the time in which numba compiles.
        limit_s: The time limit.
    """

    stage: str
    recompute_ns: int | None
    lower_bound_ns: int
    elapsed_s: float
    limit_s: float


class Watcher(Protocol):
    """A callable that is told what a search has reached."""

    def __call__(self, report: SearchReport, /) -> None:
        """Take a report.

        It is called in the thread that searches, about four times per second, but less often while
        numba compiles. Raise `StopSearch` to end the search as if its time were over. Any other
        exception ends the search too, and is raised by the function that was asked.
        """


class Clock:
    """The time of one search, which stands still while numba compiles.

    Attributes:
        end: Time at which the search must end, as `now` counts it; infinite without a limit.
        is_stopped: Whether the watcher has ended the search.
        is_cut_short: Whether a search has ended because of its time.
        failure: What else the watcher has raised.
    """

    def __init__(
        self, *, limit_s: float = math.inf, watch: Watcher | None = None, budget_bytes: int = 0
    ) -> None:
        """Start the clock.

        Args:
            limit_s: Seconds that the search may take.
            watch: What is told about it.
            budget_bytes: The budget; plans within it are told.
        """
        self._limit_s = limit_s
        self._watch = watch
        self._budget_bytes = budget_bytes
        self._started = time.monotonic()
        self._paused_s = 0.0
        self._paused_since: float | None = None
        self._paused_stage = ""
        self._next_report = self._started
        self._stage = "reading the graph"
        self._recompute_ns: int | None = None
        self._lower_bound_ns = 0
        self.end = self._started + limit_s
        self.is_stopped = False
        self.is_cut_short = False
        self.failure: Exception | None = None

    def now(self) -> float:
        """The time in seconds; calls the watcher if a report is due. Past `end` once stopped."""
        if self._watch is not None and time.monotonic() >= self._next_report:
            self._report()
        now = self._time()
        return max(now, self.end + 1) if self.is_stopped else now

    def _time(self) -> float:
        now = time.monotonic() if self._paused_since is None else self._paused_since
        return now - self._paused_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since the search began, without the time in which numba compiles."""
        return self._time() - self._started

    @property
    def is_over(self) -> bool:
        """Whether the time is over, or the watcher has ended the search."""
        return self.now() >= self.end

    def check(self) -> None:
        """Raise OutOfTime if the time is over."""
        if self.is_over:
            raise OutOfTime

    def until(self, seconds: float) -> float:
        """The time so many seconds from now, but never after the end."""
        return min(self.now() + seconds, self.end)

    def shorten(self, seconds: float) -> None:
        """Let the time end in so many seconds, if it does not end before."""
        self.end = self.until(seconds)

    def seconds_left(
        self, deadline: float, *, share: float = 1.0, least_s: float = _LEAST_S
    ) -> float:
        """A share of the time until a deadline, but never less than a search needs to answer.

        Args:
            deadline: Time at which the search ends, as `now` counts it.
            share: The share of the time left that the search may take.
            least_s: What it gets if the time is nearly over.
        """
        return max(least_s, (min(deadline, self.end) - self.now()) * share)

    def begin(self, stage: str) -> None:
        """Tell what comes next."""
        self._stage = stage
        self.now()

    def found(self, recompute_ns: int, peak_bytes: int) -> None:
        """Tell about a plan; only a plan within the budget that is the cheapest so far counts."""
        best_ns = self._recompute_ns
        if peak_bytes <= self._budget_bytes and (best_ns is None or recompute_ns < best_ns):
            self._recompute_ns = recompute_ns

    def proved(self, lower_bound_ns: int) -> None:
        """Tell about a lower bound on the recompute time."""
        self._lower_bound_ns = max(self._lower_bound_ns, lower_bound_ns)

    def pause(self, stage: str) -> None:
        """Stand still for something that is no part of the search, and tell the watcher."""
        if self._paused_since is None:
            self._paused_since = time.monotonic()
            self._paused_stage, self._stage = self._stage, stage
        if self._watch is not None and time.monotonic() >= self._next_report:
            self._report()

    def resume(self) -> None:
        """Go on."""
        if self._paused_since is not None:
            self._paused_s += time.monotonic() - self._paused_since
            self._paused_since, self._stage = None, self._paused_stage

    def _report(self) -> None:
        """Call the watcher."""
        assert self._watch is not None
        self._next_report = math.inf  # a watcher that itself searches must not be called by it
        report = SearchReport(
            stage=self._stage,
            recompute_ns=self._recompute_ns,
            lower_bound_ns=self._lower_bound_ns,
            elapsed_s=self.elapsed_s,
            limit_s=self._limit_s,
        )
        try:
            if not self.is_stopped:
                self._watch(report)
        except StopSearch:
            self.is_stopped = True
        except Exception as error:
            self.failure = error
            raise
        finally:
            self._next_report = time.monotonic() + _BETWEEN_REPORTS_S
