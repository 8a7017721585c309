"""Collecting garbage while steps are measured: quick, and nothing of it stays behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from autockpt.verify.peak import old_objects_set_aside


class _Cycle:
    def __init__(self) -> None:
        self.own = self


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    """The tests' own harness freezes objects, too."""
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_what_was_there_is_not_looked_at_and_what_is_made_is_collected() -> None:
    with old_objects_set_aside():
        assert gc.get_freeze_count() > 0
        made = weakref.ref(_Cycle())
        gc.collect()
        assert made() is None
    assert gc.get_freeze_count() == 0


def test_a_failure_leaves_nothing_set_aside() -> None:
    with pytest.raises(ValueError, match="mine"), old_objects_set_aside():
        raise ValueError("mine")
    assert gc.get_freeze_count() == 0


def test_what_a_user_has_frozen_stays_frozen() -> None:
    gc.freeze()
    with old_objects_set_aside():
        pass
    assert gc.get_freeze_count() > 0
