"""Ctrl-C, SIGTERM and your own handlers, in a search and after it.

CP-SAT took the handler of SIGINT and left the system's default: after any plan that had run it,
Ctrl-C ended the process without `except` or `finally`. Signals are real here, and each process is
one of its own.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

# Runs a search that uses CP-SAT for long, in each of the three places that call it. `calls` counts
# the integer programs, and `hit` is called while the first one is solved.
SEARCHES = """
    import os, signal, sys, threading, time
    from ortools.sat.python import cp_model
    from autockpt_solvers import (
        ComputeGraph, Op, Problem, StopSearch, Storage, baseline_schedule, simulate, solve
    )

    def chain(length, *, is_free=False):
        storages, ops = [], []
        def add(name, reads, is_backward):
            ops.append(Op(name=name, runtime_ns=len(ops) % 5 + 1, reads=reads,
                          writes=(len(storages),), is_backward=is_backward and not is_free))
            storages.append(Storage(name=name, size_bytes=1000 + 7 * (len(ops) % 13)))
            return len(storages) - 1
        forward = [add("f0", (), False)]
        for k in range(1, length):
            forward.append(add(f"f{k}", (forward[-1],), False))
        last = forward[-1]
        for k in range(length - 1, -1, -1):
            last = add(f"b{k}", tuple({forward[k], last}), True)
        return ComputeGraph(storages=tuple(storages), ops=tuple(ops), outputs=(last,))

    def search(name, *, seconds=3.0, watch=None):
        graph = chain(12, is_free=name == "moments")
        peak = simulate(graph, baseline_schedule(graph)).peak_bytes
        method = "auto" if name == "moments" else name
        return solve(Problem(graph=graph, budget_bytes=peak * 3 // 5), method=method,
                     time_limit_s=seconds, watch=watch)

    calls, hit = [], []
    solve_alone = cp_model.CpSolver.solve

    def counted(solver, *args):
        calls.append(threading.current_thread())
        if len(calls) == 1 and hit:
            threading.Timer(0.2, hit[0]).start()
            # Until the signal has come, the program is solved again and again.
            until = time.monotonic() + 60
            while not came and time.monotonic() < until:
                solve_alone(solver, *args)
        return solve_alone(solver, *args)

    came = []
    cp_model.CpSolver.solve = counted
"""

PLACES = ("ilp", "exact", "moments")


def run(code, *args):
    program = textwrap.dedent(SEARCHES) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout.split(), done.stderr


@pytest.mark.parametrize("place", PLACES)
def test_no_handler_is_changed_by_a_search(place):
    """Each of the three places that ran CP-SAT left SIG_DFL behind."""
    code = """
        before = signal.getsignal(signal.SIGINT)
        search(sys.argv[1])
        assert calls
        assert signal.getsignal(signal.SIGINT) is before is signal.default_int_handler
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        except KeyboardInterrupt:
            print("caught")
        finally:
            print("finally")
    """
    assert run(code, place) == (0, ["caught", "finally"], "")


@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_ends_a_search_with_keyboard_interrupt_and_the_next_one_works(place):
    """An integer program of 20 s held Ctrl-C back for as long: Python had no turn."""
    code = """
        def interrupt():
            os.kill(os.getpid(), signal.SIGINT)
        hit.append(interrupt)
        try:
            search(sys.argv[1])
        except KeyboardInterrupt:
            came.append(True)
            print("caught")
        finally:
            print("finally")
        print(sum(thread.is_alive() for thread in calls))
        print(search(sys.argv[1]).schedule is not None)
    """
    code = code.replace(
        "os.kill(os.getpid(), signal.SIGINT)",
        "os.kill(os.getpid(), signal.SIGINT); came.append(True)",
    )
    assert run(code, place) == (0, ["caught", "finally", "0", "True"], "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_your_own_handler_is_called_in_a_search_and_stays(name):
    code = """
        number = getattr(signal, sys.argv[1])
        def mine(signum, frame):
            came.append(signum)
            print("mine", flush=True)
        signal.signal(number, mine)
        hit.append(lambda: os.kill(os.getpid(), number))
        print(search("ilp").schedule is not None)
        assert signal.getsignal(number) is mine
        os.kill(os.getpid(), number)
        time.sleep(0.1)
    """
    assert run(code, name) == (0, ["mine", "True", "mine"], "")


def test_sigterm_ends_a_search_as_the_system_does():
    code = """
        hit.append(lambda: os.kill(os.getpid(), signal.SIGTERM))
        search("ilp")
        print("not ended")
    """
    assert run(code)[:2] == (-signal.SIGTERM, [])


def test_a_handler_that_raises_ends_a_search():
    code = """
        class Preempted(Exception):
            pass
        def mine(signum, frame):
            came.append(signum)
            raise Preempted
        signal.signal(signal.SIGTERM, mine)
        hit.append(lambda: os.kill(os.getpid(), signal.SIGTERM))
        try:
            search("ilp")
        except Preempted:
            print("preempted")
        print(signal.getsignal(signal.SIGTERM) is mine)
    """
    assert run(code) == (0, ["preempted", "True"], "")


def test_a_search_runs_in_any_thread_and_its_watcher_in_the_same():
    code = """
        seen = set()
        def watch(report):
            seen.add(threading.current_thread())
        found = []
        thread = threading.Thread(target=lambda: found.append(search("ilp", watch=watch)))
        thread.start()
        thread.join()
        print(found[0].schedule is not None, seen == {thread}, bool(calls))
    """
    assert run(code) == (0, ["True", "True", "True"], "")
