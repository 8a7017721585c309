"""`make test` checks rows at the small budget; at the middle one too where longer tests run."""

from __future__ import annotations

import both
import pytest


@pytest.fixture(autouse=True)
def _budgets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.config.getoption("markexpr") == "not full":
        monkeypatch.setattr(both, "BUDGETS", ("small",))
