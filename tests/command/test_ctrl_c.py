"""Ctrl-C on the command line, with real signals: once to end the search, twice to quit."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path

import forked
import pytest
from terminals import environment
from typer.testing import CliRunner

from autockpt.command import cli
from autockpt.report.plan import Plan

# A search does not end before it is told to; `stubborn` ones do not end even then.
_PROGRAM = """
import time, sys
from autockpt_solvers import clock, StopSearch
from autockpt.command import cli; from autockpt.command.tasks import graph_file
from autockpt.lower import problem
from autockpt.progress import current, displays

displays._LOG_FROM_S, displays.Log.interval_s, clock._BETWEEN_REPORTS_S = 0.0, 0.01, 0.0

def unending(asked, *, watch, **options):
    def waiting(report):
        if report.recompute_ns is not None or "no plan" in KIND:
            print("searching", file=sys.stderr, flush=True)
            try:
                while True:
                    watch(report)
                    time.sleep(0.01)
            except StopSearch:
                print("told to end", file=sys.stderr, flush=True)
                while "stubborn" in KIND:
                    time.sleep(0.01)
                raise
        watch(report)
    return solve(asked, watch=waiting, **options)

def begin(planning, stage):
    begun(planning, stage)
    while KIND == stage.name:  # torch may drop an exception that comes while it traces
        print("at the stage", file=sys.stderr, flush=True)
        time.sleep(0.1)

begun, current.Planning.begin = current.Planning.begin, begin
solve = problem.solve
problem.solve = graph_file.solve = unending
"""


_LIMIT_S = 300


class _Command:
    """A command that runs, and what it has written to standard error."""

    def __init__(self, kind: str, *args: str) -> None:
        self.lines: list[str] = []
        read, write = os.pipe()
        with open(os.devnull, "w") as nothing, open(write, "w"):  # noqa: PTH123
            self._process = forked.Program(
                f"KIND = {kind!r}\n{_PROGRAM}\ncli.main()\n",
                *args,
                env=environment(),
                stdout=nothing.fileno(),
                stderr=write,
            )
        # One that hangs fails, in the end.
        self._timer = threading.Timer(_LIMIT_S, self._process.kill)
        self._timer.start()
        self._stderr = open(read)  # noqa: PTH123, SIM115

    def interrupt_when(self, text: str) -> None:
        """Send SIGINT once a line contains this."""
        for line in self._stderr:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                self._process.send_signal(signal.SIGINT)
                return
        raise AssertionError(f"{text!r} did not come: {self.lines}")

    def code(self) -> int:
        """The exit code, once it has ended."""
        with self._stderr:
            self.lines += [line.rstrip("\n") for line in self._stderr]
        code = self._process.wait()
        self._timer.cancel()
        return code


_PLAN = ("plan", "zoo:sequential", "--budget", "60%", "--time-limit", "500")


def test_the_first_ends_the_search_and_keeps_the_best_plan(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    command = _Command("usual", *_PLAN, "--json", str(file))
    command.interrupt_when("% time")  # there is a plan by then
    assert command.code() == 0, command.lines
    assert "search stopped: the best plan so far follows" in command.lines
    plan = Plan.load(file)
    assert 0 < plan.predicted_peak_bytes <= plan.budget_bytes < plan.baseline_peak_bytes


@pytest.mark.parametrize("kind", ["stubborn", "no plan, stubborn"])
def test_the_second_quits(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    command = _Command(kind, *_PLAN, "--json", str(file), "--quiet")
    command.interrupt_when("searching")
    command.interrupt_when("told to end")
    assert command.code() == 130
    assert command.lines == ["searching", "told to end", "interrupted"]
    assert not file.exists()


@pytest.mark.parametrize("stage", ["capturing as one graph", "measuring the optimizer"])
def test_at_another_stage_the_first_quits(stage: str) -> None:
    command = _Command(stage, *_PLAN)
    command.interrupt_when("at the stage")
    assert command.code() == 130
    assert command.lines[-1] == "interrupted"
    assert all(re.match(r"autockpt: |at the stage$|interrupted$", line) for line in command.lines)


def test_a_graph_files_search_ends_too(tmp_path: Path) -> None:
    graph, result = tmp_path / "graph.json", tmp_path / "result.json"
    exported = CliRunner().invoke(cli._app, ("graph", "zoo:sequential", "-o", str(graph)))
    assert exported.exit_code == 0, exported.output
    solving = _Command("usual", "solve", str(graph), "--budget", "60%", "--json", str(result))
    solving.interrupt_when("searching")
    assert solving.code() == 0, solving.lines
    assert "search stopped: the best plan so far follows" in solving.lines
    assert '"status": "' in result.read_text()
