"""The nearest of the names that are known, for errors about one that is not."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


def meant(name: str, known: Iterable[str], shown: Callable[[str], str] = repr) -> str:
    """Returns ``"did you mean 'h100'? "``, or nothing if no known name is near.

    Args:
        name: The name that is not known.
        known: The names that are.
        shown: How to write one.
    """
    close = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f"did you mean {shown(close[0])}? " if close else ""
