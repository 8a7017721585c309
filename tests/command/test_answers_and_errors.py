"""An answer on standard output is nothing but the answer; a fault is one line with its place."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import forked
import pytest
from terminals import environment
from typer.testing import CliRunner, Result

from autockpt.command import cli
from autockpt.command.cli import _app
from autockpt.command.running import exits
from tests.small_plans import planned

_MODELS = """
import torch

class Loud(torch.nn.Linear):
    def forward(self, x):
        print("in the forward")
        return super().forward(x).tanh()

class Bad(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).no_such_method()

class Outer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(9, 8)

    def forward(self, x):
        return self.inner(x)

def loud():
    print("in the target")
    return Loud(8, 8), torch.ones(64, 8)

def bad():
    return Bad(8, 8), torch.ones(4, 8)

def outer():
    return Outer(), torch.ones(4, 8)

def layers():
    blocks = [torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU()) for _ in range(4)]
    return torch.nn.Sequential(*blocks), torch.ones(512, 8)

def sized(batch):
    return torch.nn.Linear(8, 8), torch.ones(batch, 8)

class Named(torch.nn.Linear):
    def forward(self, x):
        return {"logits": super().forward(x)}

def named():
    return Named(8, 8), torch.ones(4, 8)

def loss(output):
    print("in the loss")
    return output.sum()

def bad_loss(output):
    return output.no_such_method()

def nothing(problem, *, time_limit_s, seed):
    return None

def five(problem, *, time_limit_s, seed):
    return 5

def fails(problem, *, time_limit_s, seed):
    return {}["gone"]

def other(problem):
    return None
"""
_QUICK = ("--method", "greedy", "--time-limit", "1", "-q")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("models") / "models_for_answers.py"
    file.write_text(_MODELS)
    return str(file)


def run(*args: str, **options: Any) -> Result:
    return CliRunner().invoke(_app, args, **options)


def test_what_your_code_prints_is_not_in_the_answer(models: str) -> None:
    target = ("plan", f"{models}:loud", "--loss", f"{models}:loss", "--budget", "150%")
    found = run(*target, "--json", "-", *_QUICK)
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["format"] == "autockpt plan"
    assert "in the target" in found.stderr
    report = run(*target, *_QUICK)
    assert report.stdout.startswith("fits ")
    assert "in the" not in report.stdout


@pytest.mark.parametrize("shows", [True, False])
def test_what_a_watched_script_prints(tmp_path: Path, shows: bool) -> None:
    """It is the script's output, unless standard output is to be JSON."""
    script = tmp_path / "train.py"
    script.write_text("print('epoch 1')\n")
    found = run("monitor", "-q", *(() if shows else ("--json", "-")), str(script))
    if shows:
        assert found.stdout == "epoch 1\n"
    else:
        assert json.loads(found.stdout)["exit_code"] == 0
        assert "epoch 1" in found.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("plan", "zoo:gpt2", "--budget", "1GB", "--json", "-", "--html", "-"), "standard output"),
        (("plan", "zoo:gpt2", "--budget", "1GB", "--json", "a", "--html", "a"), "written to a;"),
        (("solve", "a.json", "--budget", "1GB", "--json", "-", "--schedule", "-"), "both take"),
    ],
)
def test_two_answers_in_one_place(args: tuple[str, ...], message: str) -> None:
    found = run(*args)
    assert found.exit_code == exits.USAGE
    assert message in found.stderr
    assert found.stdout == ""


def test_a_page_on_standard_output_stands_alone(tmp_path: Path) -> None:
    for name, share in (("a", 0.5), ("b", 0.7)):
        planned(share).save(tmp_path / f"{name}.json")
    found = run("diff", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--html", "-")
    assert found.stdout.lstrip().startswith("<!doctype html>")
    assert found.stdout.rstrip().endswith("</html>")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("bad", "--loss", "sum"), "cannot capture Bad ({file}:11): its forward fails on these"),
        (("outer", "--loss", "sum"), "cannot capture Outer ({file}:19): its forward fails on"),
        (("layers", "--loss", "bad_loss"), "cannot capture loss_fn ({file}:50): it fails on the"),
    ],
)
def test_a_fault_of_your_code_is_one_line(
    models: str, options: tuple[str, str, str], message: str
) -> None:
    name, option, loss = options
    loss = loss if loss == "sum" else f"{models}:{loss}"
    found = run("plan", f"{models}:{name}", option, loss, "--budget", "1MB", *_QUICK)
    assert found.exit_code == exits.NOT_CAPTURED
    (line,) = found.stderr.splitlines()
    assert message.format(file=models) in line
    assert "'Tensor' object" in line or "cannot be multiplied" in line
    assert "FakeTensor" not in line


@pytest.mark.parametrize(
    ("method", "code", "message"),
    [
        ("nothing", exits.DOES_NOT_FIT, "method 'nothing' returned None, so there is no plan for"),
        ("five", exits.USAGE, "method 'five' returned int; it must return a Schedule, an Attempt"),
        ("fails", exits.USAGE, "method 'fails' raised KeyError: 'gone'; mend {file}:59"),
        ("other", exits.USAGE, "a method takes (problem, *, time_limit_s, seed) and returns a"),
    ],
)
def test_methods_of_your_own_that_give_no_schedule(
    models: str, method: str, code: int, message: str
) -> None:
    own = ("--method", f"{models}:{method}", "-q")
    found = run("plan", f"{models}:layers", "--loss", "sum", "--budget", "85%", *own)
    assert found.exit_code == code, found.stderr
    assert message.format(file=models) in found.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--loss", "suma"), "unknown loss 'suma'; did you mean 'sum'? use sum, mean, or"),
        (("--loss", "zz"), "unknown loss 'zz'; use sum, mean, or file.py:function"),
        (("--method", "gredy"), "unknown method 'gredy'; did you mean 'greedy'?"),
        (("--optimizer", "adamv"), "unknown optimizer 'adamv'; did you mean 'adam"),
        (("--device", "tpu"), "here are cpu, cuda, meta"),
        (("--device", "h10"), "unknown device 'h10'; did you mean 'h100'?"),
        (("--cost", "mine"), "unknown cost model 'mine'; none is installed; use file.py:function"),
    ],
)
def test_names_that_are_not_known(option: tuple[str, str], message: str) -> None:
    found = run("plan", "zoo:sequential", "--budget", "80%", *option)
    assert found.exit_code == exits.USAGE
    (line,) = found.stderr.splitlines()
    assert message in line


def test_a_target_that_is_not_complete(models: str) -> None:
    bare = run("plan", models, "--budget", "1GB")
    assert bare.exit_code == exits.USAGE
    assert f"is a file; name a function of it too: {models}:loud or {models}:bad" in bare.stderr
    sized = run("plan", f"{models}:sized", "--budget", "1GB")
    assert f"{models}:sized needs a batch size: add --batch 8" in sized.stderr
    named = run("plan", f"{models}:named", "--budget", "1GB", "--loss", "sum", *_QUICK)
    assert "--loss sum needs a tensor, and the output is a dict; give --loss file.py" in (
        named.stderr
    )


def test_a_file_that_two_options_name_runs_once(models: str) -> None:
    marked = Path(models).with_name("models_that_count.py")
    marked.write_text("print('this file runs')\n" + Path(models).read_text())
    target, loss = f"{marked}:layers", f"{marked}:loss"
    found = run("plan", target, "--loss", loss, "--budget", "150%", *_QUICK)
    assert found.exit_code == 0, found.stderr
    assert found.stderr.count("this file runs") == 1


@pytest.mark.parametrize("args", [("--help",), ("--version",), ("cache", "info"), ("nonsense",)])
def test_a_closed_pipe_ends_a_command_quietly(args: tuple[str, ...]) -> None:
    """As `autockpt plan ... | head -1` closes it."""
    reading, writing = os.pipe()
    os.close(reading)
    said, errors = os.pipe()
    ended = forked.Program(
        "from autockpt.command.cli import main\nmain()\n",
        *args,
        env=environment(AUTOCKPT_PROGRESS="0", COLUMNS="80"),
        stdout=writing,
        stderr=errors if args != ("nonsense",) else writing,
    )
    os.close(writing)
    os.close(errors)
    with os.fdopen(said, encoding="utf-8") as stream:
        assert stream.read() == ""
    assert ended.wait() == exits.CLOSED_PIPE


def test_a_stream_that_was_closed_before_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """`autockpt diff A B >&-` ended in a traceback about `None`."""
    monkeypatch.setattr(cli, "_app", lambda **_: 0)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0


def test_an_answer_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(cli, "_app", closed)
    monkeypatch.setattr(cli.os, "dup2", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == exits.CLOSED_PIPE
