"""What planning shows: on a terminal, in a notebook, in a log; and when it shows nothing."""

from __future__ import annotations

import re
import sys
import types
from typing import Any

import pytest
from terminals import in_a_pipe, on_terminal

from autockpt import progress
from autockpt.progress import current, displays, stages

_START = """
import logging, sys, threading, time, warnings
import autockpt
from autockpt import progress
from autockpt.progress import current, displays, terminal
current.SILENT_S = displays._LOG_FROM_S = 0.0  # show what is quick as well

def drawn():
    "Wait until the line has been drawn twice more, so that one of them shows what is the case now."
    line = terminal.Terminal.shown()
    number = line._num_shown
    while line._num_shown < number + 2:
        time.sleep(0.01)

def section(name):
    print("==", name, flush=True)
"""

_OPTIMIZE = """
import torch
from torch import nn
layers = (m for _ in range(3) for m in (nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)))
model, x = nn.Sequential(*layers), torch.randn(256, 32)
def optimize(**options):
    return autockpt.optimize(
        model, "85%", sample_args=(x,), method="greedy", optimizer="sgd", **options
    )
"""
_OUTCOME = (
    r"Sequential planned for [\d.]+ [KM]iB: peak [\d.]+ [KM]iB \(eager [\d.]+ [KM]iB\), "
    r"\+[\d.]+% time; took [\d.]+ s"
)


def _sections(lines: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("== "):
            found[line[3:]] = []
        elif found:
            found[list(found)[-1]].append(line)
    return found


def test_a_terminal_gets_a_line_that_renews_itself_and_is_gone_at_the_end() -> None:
    shown = on_terminal(
        _START
        + _OPTIMIZE
        + """
section("stages")
with progress.planning("Net", is_shown=True):
    progress.stage("profiling", num_all=40)
    progress.advance(7)
    drawn()
    progress.stage("solving", limit_s=60)
    drawn()
    with progress.planning("Inner", is_shown=True):
        progress.finish("planned inside")
    drawn()
section("failure")
try:
    with progress.planning("Net", is_shown=True):
        progress.stage("capturing")
        drawn()
        raise ValueError
except ValueError:
    print("it failed")
section("warning")
with progress.planning("Net", is_shown=True):
    progress.stage("solving")
    drawn()
    autockpt.user_warnings.warn_user("mind this")
    drawn()
section("quick")
current.SILENT_S = 1e9
optimize()
section("slow")
current.SILENT_S = 0.0
optimize()
autockpt.restore(model)
section("off")
optimize(progress=False)
section("end")
""",
        AUTOCKPT_RAISE="1",
    )
    assert shown.code == 0, shown.written
    assert any(re.fullmatch(r"autockpt Net: profiling, 7 of 40, \d+ s", f) for f in shown.frames)
    assert any(re.fullmatch(r"autockpt Net: solving, \d+ of 60 s", f) for f in shown.frames)
    left = _sections(shown.screen)
    assert re.fullmatch(r"autockpt: Net planned inside; took [\d.]+ s", left["stages"].pop(0))
    assert left["failure"] == ["it failed"]
    assert re.fullmatch(r"<string>:\d+: UserWarning: mind this", left["warning"].pop(0))
    assert left["quick"] == []
    assert len(left["slow"]) == 1
    assert re.fullmatch("autockpt: " + _OUTCOME, left["slow"][0])
    assert left["stages"] == left["warning"] == left["off"] == []
    assert "autockpt Inner" not in shown.written


def test_a_narrow_terminal_and_one_without_unicode_keep_to_one_line() -> None:
    program = (
        _START
        + """
with progress.planning("Net", is_shown=True):
    progress.stage("a stage with a name that does not fit")
    drawn()
    drawn()
"""
    )
    # A shell that exports COLUMNS does not change it for a program whose window is resized.
    encoding = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    shown = on_terminal(program, width=30, is_fresh=True, COLUMNS="80", **encoding)
    assert shown.code == 0, shown.written
    assert set("".join(shown.written)) <= {chr(number) for number in range(128)}
    # The whole line would be "- autockpt Net: a stage with a name that does not fit".
    assert "autockpt Net: a stage with " in shown.written
    assert "autockpt Net: a stage with a" not in shown.written


def test_the_log_gets_what_a_terminal_would_show_where_there_is_none() -> None:
    program = (
        _START
        + _OPTIMIZE
        + """
if len(sys.argv) == 1 and "quiet" not in globals():
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:%(name)s:%(message)s")
displays.Log.interval_s = 0.001
seen = []
class Seen(logging.Handler):
    def emit(self, record): seen.append(record.getMessage())
logging.getLogger("autockpt").addHandler(Seen())
def begin(planning, stage):
    "Wait for its record: a quick stage might be over before it is looked at."
    begun(planning, stage)
    while is_logged and not any(f": {stage.name}" in message for message in seen):
        time.sleep(0.001)
begun, current.Planning.begin = current.Planning.begin, begin
is_logged = logging.getLogger("autockpt").isEnabledFor(logging.INFO) and "off" not in globals()
optimize()
print("done")
"""
    )
    done = in_a_pipe(program)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
    lines = done.stderr.splitlines()
    assert re.fullmatch("INFO:autockpt:" + _OUTCOME, lines[-1])
    for stage in ("capturing as one graph, ", "solving, ", "comparing ", "trying the plan, "):
        assert any(line.startswith(f"INFO:autockpt:Sequential: {stage}") for line in lines), stage
    assert in_a_pipe("quiet = True\n" + program).stderr == ""
    assert in_a_pipe("off = True\n" + program, AUTOCKPT_PROGRESS="0").stderr == ""


def test_what_else_draws_on_the_terminal_is_left_alone() -> None:
    """A live display of rich, another thread's planning, another rank: these go to the log."""
    shown = on_terminal(
        _START
        + """
import os
from rich.console import Console
from rich.progress import Progress
from tqdm import tqdm

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
displays.Log.interval_s = 0.001
record = threading.Event()
class Seen(logging.Handler):
    def emit(self, _): record.set()
logging.getLogger("autockpt").addHandler(Seen())

def logged(name):
    record.clear()
    with progress.planning(name, is_shown=True):
        assert terminal.Terminal.shown() is None or name == "Other"
        progress.stage("solving")
        assert record.wait(60)

for options in ({}, {"console": Console(stderr=True)}):
    with Progress(disable=False, **options) as bars:
        bars.add_task("training")
        logged("Live")
section("tqdm")
for _ in tqdm(range(1), desc="training", mininterval=0):
    with progress.planning("Net", is_shown=True):
        progress.stage("solving")
        drawn()
        progress.finish("is planned")
section("threads")
with progress.planning("Net", is_shown=True):
    progress.stage("solving")
    drawn()
    other = threading.Thread(target=logged, args=("Other",))
    other.start()
    other.join()
    drawn()
section("rank")
os.environ["RANK"] = "1"
logged("Rank")
del os.environ["RANK"]
section("closed")
sys.stderr.close()
logged("Closed")
sys.stderr = None
logged("None")
section("end")
"""
    )
    assert shown.code == 0, shown.written
    left = _sections(shown.screen)
    assert shown.written.count("Live: solving, 0 s") == 2
    assert left["tqdm"][0].startswith("autockpt: Net is planned; took ")
    assert left["tqdm"][1].startswith("training: 100%")
    assert "Other: solving, 0 s" in shown.written
    assert left["rank"] == ["Rank: solving, 0 s"]
    assert left["closed"] == ["Closed: solving, 0 s", "None: solving, 0 s"]


class _Handle:
    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def update(self, bundle: dict[str, str], *, raw: bool) -> None:
        assert raw
        self._texts.append(bundle["text/plain"])


def test_a_notebook_gets_an_output_that_renews_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []

    def display(bundle: dict[str, str], *, raw: bool, display_id: bool) -> _Handle:
        assert display_id
        handle = _Handle(texts)
        handle.update(bundle, raw=raw)
        return handle

    ipython: Any = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    monkeypatch.setattr(current, "SILENT_S", 0.0)
    monkeypatch.setattr(displays.Notebook, "interval_s", 0.001)
    monkeypatch.delenv("AUTOCKPT_PROGRESS", raising=False)
    with progress.planning("Net", is_shown=True):
        progress.stage("solving")
        while not texts:
            pass
        progress.finish("is planned")
    assert texts[0] == "autockpt Net: solving, 0 s"
    assert texts[-1].startswith("autockpt: Net is planned; took ")


@pytest.mark.parametrize(
    ("recompute_ns", "lower_bound_ns", "text"),
    [
        (0, 0, "+0.0% time"),
        (41, 35, "+4.1% time, at most 0.6% above the best possible"),
        (41, 41, "+4.1% time, the least possible"),
        (41, 0, "+4.1% time"),
    ],
)
def test_what_a_search_has_reached_is_told(
    recompute_ns: int, lower_bound_ns: int, text: str
) -> None:
    assert stages.standing(recompute_ns, lower_bound_ns, 1000) == text


def test_without_planning_nothing_is_noted() -> None:
    progress.stage("solving")
    progress.advance(3)
    progress.finish("planned")
    assert not progress.stop_search()
