"""`autockpt bench`: cells, results on disk, and going on after an interruption."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import forked
import pytest
from typer.testing import CliRunner, Result

from autockpt.command.cli import _app

_MODELS = """\
import time
import torch
from autockpt_solvers import with_frees

def mlp():
    layers = [torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.GELU()) for _ in range(3)]
    return torch.nn.Sequential(*layers), torch.ones(256, 32)

def keep_all(problem, *, time_limit_s, seed):
    return with_frees(problem.graph, range(len(problem.graph.ops)))

def slow(problem, *, time_limit_s, seed):
    time.sleep(600)

def broken(problem, *, time_limit_s, seed):
    raise KeyError("lost")
"""
_EXPERIMENT = """\
title = "Three layers"
about = "A test."
methods = ["greedy", "sqrt", "FILE:keep_all"]
budgets = ["100%", "90%"]
time_limit_s = 1
optimizer = "sgd"

[[models]]
name = "MLP"
target = "FILE:mlp"
loss = "sum"

[[published]]
model = "MLP"
what = "added time of sqrt"
value = "33%"
source = "Nobody 1999, table 7"
"""


def _experiment(folder: Path) -> Path:
    (folder / "bench_models.py").write_text(_MODELS)
    (folder / "x.toml").write_text(_EXPERIMENT.replace("FILE", "bench_models.py"))
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an experiment and its models."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    return _experiment(tmp_path)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """An experiment that was run, in a folder of its own."""
    folder = _experiment(tmp_path_factory.mktemp("first"))
    return folder, _bench(folder)


@pytest.fixture
def finished(first: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of its folder."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    return Path(shutil.copytree(first[0], tmp_path / "copy"))


def _bench(folder: Path, *args: str) -> Result:
    return CliRunner().invoke(_app, ("bench", str(folder / "x.toml"), *args))


def _cells(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "x-results" / "results.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["type"] == "cell"]


def test_every_cell_is_solved_and_shown(first: tuple[Path, Result]) -> None:
    folder, result = first
    assert result.exit_code == 0, result.output
    assert "6 cells solved, 0 known before, 0 without a result" in result.stdout
    out = folder / "x-results"
    content = json.loads((out / "results.json").read_text())
    assert len(content["cells"]) == 6
    (captured,) = content["captured"]
    by = {(cell["method"], cell["budget"]): cell for cell in content["cells"]}
    for (_, budget), cell in by.items():
        assert cell["budget_bytes"] == captured["eager_peak_bytes"] * int(budget[:-1]) // 100
        assert cell["peak_bytes"] <= cell["budget_bytes"]
        assert 0 <= cell["lower_bound"] <= cell["overhead"] or not cell["peak_bytes"]
        assert cell["overhead"] == cell["recompute_ns"] / captured["step_ns"]
    assert by["greedy", "90%"]["overhead"] > 0
    assert by["bench_models.py:keep_all", "90%"]["status"] == "not_found"
    page = (out / "results.md").read_text()
    assert page.startswith("# Three layers\n\nA test.\n")
    assert "| added time of sqrt |  | 33% | Nobody 1999, table 7 |" in page
    share = by["greedy", "90%"]["overhead"]
    assert f"| +{share:.2%}" in page
    for name in ("overhead-cpu.svg", "solver_time-cpu.svg"):
        assert f"![{name}]({name})" in page
        assert "MLP" in (out / name).read_text()


def test_it_goes_on_where_it_was_killed(finished: Path) -> None:
    folder = finished
    file = folder / "x-results" / "results.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    cells = _cells(folder)
    file.write_text("".join(lines[:4]) + lines[4][:30])  # killed while it wrote
    result = _bench(folder)
    assert "3 cells solved, 3 known before" in result.stdout
    for before, now in zip(cells, _cells(folder), strict=True):
        for measured in ("solve_s", "solve_cpu_s"):
            before.pop(measured)
            now.pop(measured)
        assert before == now
    known = file.read_bytes()
    assert "0 cells solved, 6 known before" in _bench(folder).stdout
    assert file.read_bytes() == known


def test_what_has_changed_is_solved_again(finished: Path) -> None:
    folder = finished
    file = folder / "x.toml"
    file.write_text(file.read_text().replace('"90%"', '"95%"'))
    assert "3 cells solved, 3 known before" in _bench(folder).stdout
    models = folder / "bench_models.py"
    models.write_text(models.read_text() + "\n# another model, for all that is known\n")
    assert "6 cells solved, 0 known before" in _bench(folder).stdout


def test_a_method_that_fails_leaves_the_other_cells(folder: Path) -> None:
    file = folder / "x.toml"
    file.write_text(file.read_text().replace("keep_all", "broken"))
    result = _bench(folder)
    assert result.exit_code == 0
    assert "5 cells solved, 0 known before, 1 without a result" in result.stdout
    assert "method 'broken' raised KeyError: 'lost'" in result.stderr
    assert "## What did not run" in (folder / "x-results" / "results.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("bench_models.py:mlp", "bench_models.py:nlp"), "has no 'nlp'"),
        (("bench_models.py:mlp", "zoo:nlp"), "unknown model 'nlp'; the zoo has gpt2"),
        (('"greedy"', '"greedier"'), "unknown method 'greedier'"),
        (('loss = "sum"', 'loss = "max"'), "unknown loss 'max'; use sum, mean"),
        (("title =", 'devices = ["h1000"]\ntitle ='), "h1000"),
        (("title =", 'cost = "nobody"\ntitle ='), "no 'nobody' among the entry points"),
        (("title =", "titel ="), "x.toml: unknown key 'titel'; did you mean 'title'?"),
    ],
)
def test_a_wrong_name_is_one_line_before_anything_is_built(
    folder: Path, change: tuple[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "autockpt.command.targets.experiment.load_step", lambda *_, **__: pytest.fail("built")
    )
    file = folder / "x.toml"
    file.write_text(file.read_text().replace(*change))
    result = _bench(folder)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_folder_with_something_else_is_refused(folder: Path) -> None:
    out = folder / "elsewhere"
    out.mkdir()
    (out / "results.jsonl").write_text("my notes\n")
    result = _bench(folder, "--output", str(out))
    assert result.exit_code == 2
    assert "line 1 of" in result.stderr
    assert (out / "results.jsonl").read_text() == "my notes\n"


def test_estimated_devices_stand_beside(folder: Path) -> None:
    file = folder / "x.toml"
    text = file.read_text().replace('methods = ["greedy", "sqrt", ', 'methods = ["greedy"]#')
    file.write_text('devices = ["cpu", "h100"]\n' + text)
    result = _bench(folder)
    assert result.exit_code == 0, result.output
    content = json.loads((folder / "x-results" / "results.json").read_text())
    sources = {each["device"]: each["cost_source"] for each in content["captured"]}
    assert sources == {"cpu": "measured", "h100": "roofline"}
    assert (folder / "x-results" / "overhead-h100.svg").exists()


def test_ctrl_c_keeps_what_is_solved_and_says_so(folder: Path) -> None:
    file = folder / "x.toml"
    file.write_text(file.read_text().replace("keep_all", "slow"))
    program = "import sys; from autockpt.command.cli import main; main()"
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = forked.Program(
            program,
            "bench",
            str(file),
            env={**os.environ},
            stdout=out.fileno(),
            stderr=err.fileno(),
        )
        results = folder / "x-results" / "results.jsonl"
        deadline_s = time.monotonic() + 300
        while not results.exists() or results.read_bytes().count(b"\n") < 5:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        while True:  # until the slow method runs, and is interrupted
            err.seek(0)
            if re.search("slow at", err.read()):
                break
            time.sleep(0.05)
        time.sleep(0.3)
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 130
        err.seek(0)
        written = err.read()
        assert "the same command goes on from there" in written
        assert written.endswith("interrupted\n")
    assert len(_cells(folder)) == 5
    assert (folder / "x-results" / "results.md").exists()
