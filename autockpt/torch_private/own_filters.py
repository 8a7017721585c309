"""Filters that silence torch's warnings about internals, and nothing else.

``warnings.catch_warnings`` would make Python forget which warnings it has shown: one that is shown
once for a line of code would be shown again at every step.
"""

from __future__ import annotations

import contextlib
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Any


class _Entered(threading.local):
    """The filters that are in force in this thread, each with the list that it is in."""

    def __init__(self) -> None:
        self.entries: list[tuple[list[Any], Any]] = []


_entered = _Entered()


@contextlib.contextmanager
def ignored(
    *, message: str = "", category: type[Warning] = Warning, module: str = ""
) -> Iterator[None]:
    """Ignore some warnings, as `warnings.filterwarnings` does.

    Args:
        message: What their text begins with, as a regular expression.
        category: Their class.
        module: What the name of the module that they point at begins with, as one.
    """
    entry = (
        "ignore",
        re.compile(message, re.IGNORECASE) if message else None,
        category,
        re.compile(module) if module else None,
        0,
    )
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    own = _entered.entries
    filters.insert(0, entry)
    own.append((filters, entry))
    try:
        yield
    finally:
        own.remove((filters, entry))
        with contextlib.suppress(ValueError):  # somebody has reset all filters
            filters.remove(entry)


@contextlib.contextmanager
def filters_lifted() -> Iterator[None]:
    """Show what the filters of `ignored` would hide in this thread."""
    own = list(_entered.entries)
    for filters, entry in own:
        with contextlib.suppress(ValueError):
            filters.remove(entry)
    try:
        yield
    finally:
        for filters, entry in own:
            filters.insert(0, entry)
