"""`autockpt diff`, and the page that `plan` and `diff` write."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from autockpt.command.cli import _app
from autockpt.command.running import exits
from tests.small_plans import planned


def _run(*args: str | Path) -> Result:
    return CliRunner().invoke(_app, [str(arg) for arg in args])


def _files(folder: Path) -> tuple[Path, Path]:
    files = folder / "lean.json", folder / "roomy.json"
    for file, share in zip(files, (0.4, 0.8), strict=True):
        planned(share).save(file)
    return files


def test_two_plans_are_told_apart(tmp_path: Path) -> None:
    page, answer = tmp_path / "both.html", tmp_path / "both.json"
    result = _run("diff", *_files(tmp_path), "--html", page, "--json", answer)
    assert result.exit_code == exits.FITS, result.output
    assert result.stdout.startswith("autockpt diff  roomy needs ")
    assert "roomy - lean" in result.stdout
    assert "layer.[2-4].mlp" in result.stdout
    assert "<h1>roomy needs" in page.read_text(encoding="utf-8")
    told = json.loads(answer.read_text(encoding="utf-8"))
    assert told["names"] == ["lean", "roomy"]
    assert told["modules"][0]["first"]["saved_bytes"] < told["modules"][0]["second"]["saved_bytes"]
    alone = _run("diff", *_files(tmp_path), "--json", "-")
    assert json.loads(alone.stdout) == told


def test_what_is_no_plan_is_told_in_one_line(tmp_path: Path) -> None:
    good, _ = _files(tmp_path)
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    for args, message in (
        ((good, tmp_path / "none.json"), "there is no file"),
        ((good, bad), "cannot load a plan from"),
        ((good, good, "--html", tmp_path / "no" / "page.html"), "there is no folder"),
    ):
        result = _run("diff", *args)
        assert result.exit_code == exits.USAGE
        assert message in " ".join(result.stderr.split())
        assert result.stderr.count("\n") == 1


def test_plan_writes_a_page(tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    args = ("zoo:sequential", "--budget", "70%", "--method", "greedy", "--quiet", "--html", page)
    result = _run("plan", *args)
    assert result.exit_code == exits.FITS, result.output
    text = page.read_text(encoding="utf-8")
    assert "<h1>Fits" in text
    assert "What other budgets cost" in text
