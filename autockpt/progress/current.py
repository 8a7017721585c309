"""What planning is doing now: stages are noted here, and a display shows them.

Planning calls `stage`, `search`, `advance` and `finish`, which only store a value. A thread beside
it shows that value. So planning never waits for a terminal, and the display keeps moving while one
call of a solver or a compiler takes a minute. None of these functions may be called in code that
Dynamo traces.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterator

from autockpt.host_random import kept_host_random_states
from autockpt.progress.displays import Display, display_here
from autockpt.progress.interrupted import interrupts_kept
from autockpt.progress.stages import Stage, seconds, standing
from autockpt_solvers import SearchReport, StopSearch, Watcher

SILENT_S = 2.0  # planning that takes less shows nothing


class Planning:
    """One run of planning, from the call that needs a plan to the plan."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began_s = time.monotonic()
        self.stage: Stage | None = None
        self.outcome = ""
        self.is_stopping = False
        self._is_over = threading.Event()

    def begin(self, stage: Stage) -> None:
        """Enter a stage; it lasts until the next one."""
        self.stage = stage

    def change(self, *, num_done: int = 0, detail: str = "") -> None:
        """Say how far the stage is."""
        if self.stage is not None:
            self.stage = dataclasses.replace(self.stage, num_done=num_done, detail=detail)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show the stages, from a thread that ends with the context."""
        display: Display | None = None
        thread: threading.Thread | None = None
        try:
            display = display_here()
            thread = threading.Thread(
                target=self._show, args=(display,), name="autockpt-progress", daemon=True
            )
            thread.start()
            yield
        finally:
            # A second Ctrl-C may come here too.
            try:
                self._is_over.set()
                if thread is not None and thread.ident is not None:
                    thread.join()
            finally:
                if display is not None:
                    is_slow = self._is_slow(time.monotonic())
                    display.close(self.name, self._outcome(), is_slow=is_slow)

    def _outcome(self) -> str:
        taken = seconds(time.monotonic() - self.began_s)
        return f"{self.outcome}; took {taken}" if self.outcome else ""

    def _is_slow(self, now_s: float) -> bool:
        return now_s - self.began_s >= SILENT_S

    def _show(self, display: Display) -> None:
        while not self._is_over.wait(display.interval_s):
            now_s, stage = time.monotonic(), self.stage
            if stage is not None and self._is_slow(now_s):
                display.show(self.name, stage, now_s)


class _Here(threading.local):
    planning: Planning | None = None


_here = _Here()


@contextlib.contextmanager
def planning(name: str, *, is_shown: bool) -> Iterator[None]:
    """Plan in this context, on this thread, and show what happens; an inner context adds nothing.

    No Ctrl-C is lost in it, and the user's random generators are as before when it ends.

    Args:
        name: What is planned: the class of the model.
        is_shown: Whether to show anything; the environment variable ``AUTOCKPT_PROGRESS=0`` turns
            it off as well.
    """
    if _here.planning is not None:
        yield
        return
    is_on = is_shown and os.environ.get("AUTOCKPT_PROGRESS") != "0"
    try:
        _here.planning = Planning(name)
        shown = _here.planning.shown() if is_on else contextlib.nullcontext()
        with kept_host_random_states(), interrupts_kept(), shown:
            yield
    finally:
        _here.planning = None


def stage(name: str, *, num_all: int = 0, limit_s: float | None = None) -> None:
    """Enter a stage of planning; it lasts until the next one.

    Args:
        name: What planning does now, in words that follow "autockpt MyModel: ".
        num_all: How many things there are to do; `advance` counts them.
        limit_s: When the stage ends at the latest, in seconds.
    """
    here = _here.planning
    if here is not None:
        here.begin(Stage(name=name, began_s=time.monotonic(), num_all=num_all, limit_s=limit_s))


def search(name: str, *, limit_s: float, step_ns: int) -> Watcher | None:
    """Enter a stage that is a search of the engine.

    Args:
        name: As for `stage`.
        limit_s: The search's time limit.
        step_ns: The time of a step in which nothing is recomputed, which costs are compared with.

    Returns:
        What watches the search: it shows what the search has reached, and ends it after
        `stop_search`. None if nothing is shown here.
    """
    here = _here.planning
    if here is None:
        return None
    here.begin(Stage(name=name, began_s=time.monotonic(), limit_s=limit_s, is_search=True))

    def watch(report: SearchReport) -> None:
        if here.is_stopping:
            raise StopSearch
        detail = report.stage
        if report.recompute_ns is not None:
            detail = standing(report.recompute_ns, report.lower_bound_ns, step_ns)
        here.change(detail=detail)

    return watch


def advance(num_done: int) -> None:
    """Say how many things of this stage are done."""
    if _here.planning is not None:
        _here.planning.change(num_done=num_done)


def finish(outcome: str) -> None:
    """Say what was planned; it is shown with the time that planning took when the context ends."""
    if _here.planning is not None:
        _here.planning.outcome = outcome


def is_stopping() -> bool:
    """Whether `stop_search` was called in the planning of this thread."""
    return _here.planning is not None and _here.planning.is_stopping


def stop_search() -> bool:
    """Ask the search that runs on this thread to end and keep its best plan.

    Returns:
        Whether a search runs that was not asked before.
    """
    here = _here.planning
    if here is None or here.is_stopping or here.stage is None or not here.stage.is_search:
        return False
    here.is_stopping = True
    here.change(detail="ending the search; Ctrl-C once more quits")
    return True
