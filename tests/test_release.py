"""What `make release` checks; tests and packages have stand-ins here, since they take an hour."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_CITATION = "version: 1.2.3\ndate-released: 2030-01-02\n"
_CHANGELOG = (
    "# Changelog\n\n## 1.2.3 (2030-01-02)\n\n- It works.\n\n## 1.2.2 (2029-01-01)\n\n- Old.\n"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that is ready for a release, but for what a test changes."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(_ROOT / ".ci" / "release", tmp_path / ".ci")
    _program(tmp_path / ".ci" / "dist", "mkdir -p dist; echo built >> log")
    _program(tmp_path / "bin" / "make", 'echo "make $*" >> log')
    (tmp_path / "autockpt").mkdir()
    (tmp_path / "autockpt" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CITATION.cff").write_text(_CITATION)
    (tmp_path / "CHANGELOG.md").write_text(_CHANGELOG)
    (tmp_path / ".gitignore").write_text("log\ndist\n")
    _git(tmp_path, "init", "-q")
    _commit(tmp_path)
    return tmp_path


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def _git(project: Path, *args: str) -> None:
    who = ("-c", "user.name=you", "-c", "user.email=you@example.org")
    subprocess.run(["git", *who, *args], cwd=project, check=True)


def _commit(project: Path) -> None:
    _git(project, "add", "-A")
    _git(project, "commit", "-qm", "all")


def _release(project: Path) -> subprocess.CompletedProcess[str]:
    path = f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [project / ".ci" / "release"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path},
    )


def test_a_release_that_is_ready_is_tested_built_and_has_its_notes(project: Path) -> None:
    done = _release(project)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ready: git tag v1.2.3 && git push origin v1.2.3")
    assert (project / "log").read_text() == "make lint docs test\nbuilt\n"
    assert (project / "dist" / "release_notes.md").read_text().strip() == "- It works."


@pytest.mark.parametrize(
    ("file", "before", "after", "told"),
    [
        ("CHANGELOG.md", "(2030-01-02)", "(unreleased)", "says that 1.2.3 is unreleased"),
        ("CHANGELOG.md", "1.2.3", "1.3.0", "begins with '## 1.3.0 (2030-01-02)', the version is"),
        ("CITATION.cff", "1.2.3", "1.2.2", "CITATION.cff is of another version"),
        ("CITATION.cff", "2030", "2031", "CITATION.cff has another date than 2030-01-02"),
        ("autockpt/__init__.py", "__version__", "version", "has no __version__"),
    ],
)
def test_what_is_missing_is_told_before_anything_runs(
    project: Path, file: str, before: str, after: str, told: str
) -> None:
    path = project / file
    path.write_text(path.read_text().replace(before, after))
    _commit(project)
    done = _release(project)
    assert done.returncode == 1
    assert done.stderr.startswith("not ready: ")
    assert told in done.stderr
    assert not (project / "log").exists()


def test_changes_that_are_not_committed_and_a_tag_that_is_there_are_told(project: Path) -> None:
    _git(project, "tag", "v1.2.3")
    assert "v1.2.3 is tagged already" in _release(project).stderr
    (project / "new").touch()
    assert "there are uncommitted changes" in _release(project).stderr
