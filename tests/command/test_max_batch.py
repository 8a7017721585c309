from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from autockpt.command.cli import _app

_SCRIPT = (
    "import torch\n"
    "def make(batch):\n"
    "    layers = [torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.GELU())\n"
    "              for _ in range(3)]\n"
    "    return torch.nn.Sequential(*layers), torch.ones(batch, 32)\n"
    "def fixed():\n"
    "    return make(4)\n"
)


def _run(*args: str) -> Result:
    return CliRunner().invoke(_app, args)


def test_the_answer_is_printed_and_written(tmp_path: Path) -> None:
    script, file = tmp_path / "mine_for_batches.py", tmp_path / "answer.json"
    script.write_text(_SCRIPT)
    result = _run(
        *("max-batch", f"{script}:make", "--budget", "60kB", "--loss", "sum", "--no-verify"),
        *("--optimizer", "sgd", "--method", "greedy", "--json", str(file)),
    )
    assert result.exit_code == 0, result.output
    answer = json.loads(file.read_text())
    assert result.stdout.startswith(f"largest batch     {answer['batch_size']}  (budget 58.59 KiB")
    assert answer["predicted_peak_bytes"] <= 60_000 < answer["next_minimum_bytes"]
    result = _run("max-batch", f"{script}:make", "--budget", "9kB", "--loss", "sum", "--quiet")
    assert result.exit_code == 3
    assert "budget 8.79 KiB is too small" in result.stderr


@pytest.mark.parametrize(
    ("target", "args", "message"),
    [
        ("zoo:sequential", ("--budget", "60%"), "depends on the batch size"),
        ("zoo:sequential", ("--budget", "much"), "'much' is not an amount of memory"),
        ("zoo:sequential", ("--budget", "1GB", "--at-most", "0"), "at-most"),
        ("zoo:sequential", ("--budget", "1GB", "--json", "no/such.json"), "there is no folder"),
        ("FILE:fixed", ("--budget", "1GB"), "has no parameter batch"),
        ("zoo:nothing", ("--budget", "1GB"), "unknown model 'nothing'"),
    ],
)
def test_wrong_arguments_fail_before_anything_is_planned(
    target: str, args: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    script = tmp_path / "fixed_batch.py"
    script.write_text(_SCRIPT)
    result = _run("max-batch", target.replace("FILE", str(script)), *args)
    assert result.exit_code == 2
    assert message in result.stderr
