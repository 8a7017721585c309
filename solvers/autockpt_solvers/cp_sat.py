"""Running CP-SAT such that Ctrl-C, your signal handlers and the watcher keep working.

By default CP-SAT replaces the handler of SIGINT and leaves the system's default behind, so that
Ctrl-C ends the process without `except` or `finally`. That is switched off here. Python calls a
signal handler only between two steps of the main thread's own code. So CP-SAT runs in a thread of
its own, and the thread that asked waits in short intervals.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autockpt_solvers.clock import Clock

_WAIT_S = 0.1  # between two looks at the clock
_LAST_WAIT_S = 0.01  # between two requests to stop


def solve_model(solver: Any, model: Any, clock: Clock) -> Any:
    """Solve a model; returns the status of CP-SAT.

    Args:
        solver: A `CpSolver`; its time limit is set.
        model: The model.
        clock: The clock of the search; once it is over, CP-SAT is stopped.
    """
    solver.parameters.catch_sigint_signal = False
    answers: list[Any] = []
    failures: list[BaseException] = []
    is_given_up, is_done = threading.Event(), threading.Event()

    def work() -> None:
        try:
            if not is_given_up.is_set():
                answers.append(solver.solve(model))
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failures.append(error)
        finally:
            is_done.set()

    # It is no daemon, because Python must not end while CP-SAT runs. And it tells by an event that
    # it is done, because Python 3.11 takes a thread for ended if an exception interrupts `join`.
    thread = threading.Thread(target=work, name="autockpt CP-SAT")
    thread.start()
    try:
        while not is_done.wait(_WAIT_S):
            if clock.is_over:
                solver.stop_search()
    finally:
        # Reached early only by an exception: of a signal handler, or of the watcher.
        is_given_up.set()
        while not is_done.wait(_LAST_WAIT_S):
            solver.stop_search()
    if failures:
        raise failures[0]
    return answers[0]
