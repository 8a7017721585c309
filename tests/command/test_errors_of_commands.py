"""What goes wrong on the command line: one line, and an exit code that says whose it is."""

from __future__ import annotations

import errno
import signal
import sys
import types
from pathlib import Path

import forked
import pytest
import torch
from command_line import autockpt, error_of
from terminals import environment

from autockpt.command.running import exits
from autockpt.command.running.failures import failure_of
from autockpt.command.running.interrupts import Interrupts

_SCRIPT = """
import torch
import os

def helper():
    raise RuntimeError("no data\\nhere")

def broken():
    return helper()

def small():
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh()), torch.ones(4, 8)

class Bad(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).no_such_method()

def bad():
    return Bad(8, 8), torch.ones(4, 8)

def quits():
    raise SystemExit(0)

def frozen():
    return torch.nn.Linear(8, 8).requires_grad_(False), torch.ones(4, 8)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("scripts") / "script_of_errors.py"
    file.write_text(_SCRIPT)
    return file


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["frobnicate"], "No such command 'frobnicate'; see autockpt --help"),
        (["plan", "zoo:gpt2"], "Missing option '--budget'; see autockpt plan --help"),
        (["plan", "zoo:gpt2", "--bidget", "1GB"], "No such option: --bidget"),
        (["plan", "zoo:gpt2", "--budget", "8"], "--budget 8 is 8 bytes: did you mean 8GB?"),
        (["plan", "zoo:gpt2", "--budget", "4096"], "did you mean 4096MB?"),
        (["fit", "zoo:gpt2", "--device", "h100", "--budget", "8"], "did you mean 8GB?"),
        (["max-batch", "zoo:gpt2", "--budget", "8"], "did you mean 8GB?"),
        (["pareto", "zoo:gpt2", "--budgets", "50%,8"], "--budgets 8 is 8 bytes: did you mean"),
        (["demo", "--budget", "8"], "did you mean 8GB?"),
        (["solve", "graph.json", "--budget", "8"], "did you mean 8GB?"),
        (["plan", "gpt2", "--budget", "8GB"], "'gpt2' is no target; did you mean zoo:gpt2?"),
        (["plan", "nowhere:f", "--budget", "8GB"], "there is no module 'nowhere'"),
        (["plan", "zoo:gpt2", "--budget", "auto"], "depends on the memory of a device"),
        (["plan", "zoo:gpt2", "--budget", "8GB", "--device", "cuba:0"], "unknown device 'cuba:0'"),
        (["solve", "no/such.json", "--budget", "80%"], "there is no file no/such.json"),
        (["pareto", "zoo:gpt2", "--json", "-", "--csv", "-"], "both take standard output"),
    ],
)
def test_wrong_usage(args: list[str], message: str) -> None:
    assert message in error_of(autockpt(*args), exits.USAGE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", [["plan", "zoo:gpt2"], ["demo"]])
def test_a_device_that_is_not_here(command: list[str]) -> None:
    """It ended in forty lines of traceback."""
    run = autockpt(*command, "--budget", "80%", "--device", "cuda")
    assert "--device cuda is not here: torch " in error_of(run, exits.USAGE)
    assert "such as --device h100" in run.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", ":broken failed at {file}:6: RuntimeError: no data here"),
        ("missing", "has no 'missing'"),
        ("quits", "your code ended at {file}:22: it called sys.exit(0)"),
    ],
)
def test_code_of_the_user(script: Path, name: str, message: str) -> None:
    told = error_of(autockpt("plan", f"{script}:{name}", "--budget", "8GB"), exits.USAGE)
    assert message.format(file=script) in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", "failed at {file}:1: SyntaxError: "),
        ("import os\nimport surely_not_here\n", "{file}:2: ModuleNotFoundError: no module 'surely"),
        ("\n\n1 / 0\n", "failed at {file}:3: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", "failed at {file}:2: SystemExit: 3"),
    ],
)
def test_files_that_cannot_be_imported(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    run = autockpt("plan", f"{file}:f", "--budget", "8GB")
    assert message.format(file=file) in error_of(run, exits.USAGE)
    shown = autockpt("plan", f"{file}:f", "--budget", "8GB", "--traceback")
    assert "Traceback (most recent call last)" in shown.stderr
    assert shown.returncode == exits.USAGE


def test_what_does_not_fit_and_what_cannot_be_captured(script: Path) -> None:
    small = autockpt("plan", f"{script}:small", "--loss", "sum", "--budget", "1000B")
    assert "is too small: it is proven" in error_of(small, exits.DOES_NOT_FIT)
    bad = autockpt("plan", f"{script}:bad", "--loss", "sum", "--budget", "1MB")
    assert f"cannot capture Bad ({script}:16)" in error_of(bad, exits.NOT_CAPTURED)
    frozen = autockpt("plan", f"{script}:frozen", "--loss", "sum", "--budget", "1MB")
    assert "the model does not train" in error_of(frozen, exits.NOT_CAPTURED)


def test_ctrl_c_while_autockpt_is_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module is there before its functions are: Ctrl-C was "a bug in autockpt"."""
    monkeypatch.setitem(sys.modules, "autockpt.progress", types.ModuleType("autockpt.progress"))
    with pytest.raises(KeyboardInterrupt):
        Interrupts()(signal.SIGINT, None)


def test_a_full_disk_is_no_bug() -> None:
    failure = failure_of(OSError(errno.ENOSPC, "No space left on device"))
    assert failure.code == exits.USAGE
    assert failure.lines == ("error: cannot write the output: No space left on device",)


def test_a_bug_is_told_as_one(tmp_path: Path) -> None:
    program = (
        "from autockpt.command import cli; from autockpt.command.tasks import graph_file\n"
        "def broken(*args, **options):\n    raise KeyError('gone')\n"
        "graph_file.solve = broken\ncli.main()\n"
    )
    graph = tmp_path / "graph.json"
    graph.write_text('{"ops": [{"name": "a", "duration": 1, "output_bytes": 9}], "edges": []}')
    run = forked.run(program, "solve", str(graph), "--budget", "80%", env=environment())
    told = error_of(run, exits.BUG)
    assert told.startswith("error: a bug in autockpt: KeyError: 'gone'; please report it")


@pytest.mark.parametrize(
    "command", ["plan", "fit", "max-batch", "pareto", "demo", "graph", "solve", "cache info"]
)
def test_help_has_examples(command: str) -> None:
    run = autockpt(*command.split(), "--help", width=120)
    assert run.returncode == 0
    name = command.split(maxsplit=1)[0]
    assert f" autockpt {name}" in run.stdout.partition("Example")[2]
    assert all(len(line) <= 120 for line in run.stdout.splitlines())


def test_nothing_typed_shows_the_commands() -> None:
    run = autockpt()
    assert run.returncode == 0
    assert "Exit codes: 0 fits" in " ".join(run.stdout.split())


@pytest.mark.parametrize(
    ("typed", "word", "found"),
    [
        ("autockpt plan zoo:g", 2, ["zoo:gpt2"]),
        ("autockpt ver", 1, ["verify"]),
        ("autockpt plan x --device h", 4, ["h100", "h200"]),
        ("autockpt plan x --method gre", 4, ["greedy"]),
        ("autockpt demo --model conv", 3, ["convnext"]),
        ("autockpt plan x --att", 3, ["--attention"]),
    ],
)
def test_completion(typed: str, word: int, found: list[str]) -> None:
    run = autockpt(_AUTOCKPT_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(word))
    assert run.stdout.split() == found
