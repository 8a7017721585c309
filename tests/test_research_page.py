"""The files and the commands of docs/research.md, as they are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autockpt.command.cli import _app
from autockpt.experiments.spec import read_experiment

_PAGE = (Path(__file__).parents[1] / "docs" / "research.md").read_text()
_FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", _PAGE, re.DOTALL))
_COMMANDS = re.findall(r"^\$ (.+)$", _PAGE, re.MULTILINE)


def test_the_experiment_of_the_docs_can_be_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "experiments.md").read_text()
    ((name, text),) = re.findall(r"```toml\n# (\w+\.toml)\n(.*?)```", page, re.DOTALL)
    (tmp_path / name).write_text(text)
    experiment = read_experiment(tmp_path / name)
    assert len(experiment.models) == 2
    assert f"$ autockpt bench {name}" in page
    for key in type(experiment).__struct_fields__:
        assert f"`{key}`" in page
    for key in type(experiment.models[0]).__struct_fields__:
        assert f"`{key}`" in page


def test_everything_on_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(_FILES) == {"my_method.py", "my_cost.py", "my_model.py", "my_graph.py"}
    assert len(_COMMANDS) == 8
    for name, text in _FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    output = {}
    for command in _COMMANDS:
        program, *args = command.split()
        if program == "python":
            path = os.pathsep.join(sys.path)
            done = subprocess.run(
                [sys.executable, *args],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PYTHONPATH": path},
            )
            assert done.returncode == 0, (command, done.stderr)
            output[command] = done.stdout
            continue
        assert program == "autockpt"
        result = CliRunner().invoke(_app, args)
        assert result.exit_code == 0, (command, result.output, result.exception)
        output[command] = result.stdout
    by = {command.split()[-1]: text for command, text in output.items()}
    assert "cost model is twice_as_fast_matmuls" in by["my_cost.py:twice_as_fast_matmuls"]
    assert "cost model is by_numbers" in by["my_cost.py:by_numbers"]
    assert "method             cheapest_simple" in by["my_method.py:cheapest_simple"]
    assert by["my_graph.py"] == "optimal\n"
