"""`autockpt cache`: what is on disk, and how to get rid of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

import autockpt
from autockpt.command.cli import _app
from autockpt.dispatch.kept import plans_folder


def run(*args: str, folder: Path, keeps: str = "1") -> Result:
    environment = {"AUTOCKPT_CACHE_DIR": str(folder), "AUTOCKPT_PLAN_CACHE": keeps}
    return CliRunner().invoke(_app, ("cache", *args), env=environment)


def test_what_is_kept_is_shown_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCKPT_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("AUTOCKPT_PLAN_CACHE", "1")
    assert "plans      0 kept, 0 B" in run("info", folder=tmp_path).stdout
    model = nn.Sequential(*(nn.Sequential(nn.Linear(8, 32), nn.Tanh()) for _ in range(1)))
    autockpt.optimize(model, "1GB", sample_args=(torch.ones(4, 8),), loss_fn=torch.sum)
    shown = run("info", folder=tmp_path)
    assert shown.exit_code == 0
    assert str(tmp_path) in shown.stdout
    assert "plans      1 kept" in shown.stdout
    assert "operators  0 measured" not in shown.stdout
    assert "off" in run("info", folder=tmp_path, keeps="0").stdout
    cleared = run("clear", folder=tmp_path)
    assert cleared.exit_code == 0
    assert "deleted 2 files" in cleared.stdout
    assert list(tmp_path.glob("**/*.json")) == []
    assert "plans      0 kept, 0 B" in run("info", folder=tmp_path).stdout


def test_what_was_half_written_is_cleared_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed while it writes a plan leaves its temporary file."""
    monkeypatch.setenv("AUTOCKPT_CACHE_DIR", str(tmp_path))
    plans = plans_folder()
    plans.mkdir(parents=True)
    left = plans / ".autockpt-0123456789abcdef.tmp"
    left.write_text("{")
    mine = plans / "notes.tmp"
    mine.write_text("of another program")
    assert "deleted 1 files" in run("clear", folder=tmp_path).stdout
    assert not left.exists()
    assert mine.exists()


def test_a_folder_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    shown = run("info", folder=tmp_path / "none")
    assert shown.exit_code == 0
    assert "operators  0 measured" in shown.stdout
    assert run("clear", folder=tmp_path / "none").exit_code == 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", ["info", "clear"])
def test_a_file_in_the_place_of_the_folder(tmp_path: Path, command: str) -> None:
    """Three lines of zeros were the answer."""
    file = tmp_path / "file"
    file.write_text("mine")
    for folder in (file, file / "below"):
        found = run(command, folder=folder)
        assert found.exit_code == 2
        (line,) = found.stderr.splitlines()
        assert line.startswith(f"error: cannot use the cache folder {folder}: {file} is not a")
        assert line.endswith("name another with AUTOCKPT_CACHE_DIR")
    assert file.read_text() == "mine"


def test_a_folder_that_you_may_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may do anything
    found = run("info", folder=tmp_path)
    assert found.exit_code == 2
    assert f"you may not read and write in {tmp_path}" in found.stderr
