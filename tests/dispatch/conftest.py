"""Fixtures for tests of plans on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autockpt.ladder import graphs
from autockpt.lower import problem


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder in which plans are kept."""
    monkeypatch.setenv("AUTOCKPT_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("AUTOCKPT_PLAN_CACHE", "1")
    return tmp_path


def forbidden(*_: Any, **__: Any) -> Any:
    raise AssertionError("it was planned anew")


@pytest.fixture
def no_planning(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forbids capturing, profiling and solving from the call on."""

    def forbid() -> None:
        monkeypatch.setattr(graphs, "capture", forbidden)
        monkeypatch.setattr(graphs, "profile", forbidden)
        monkeypatch.setattr(problem, "solve", forbidden)

    return forbid
