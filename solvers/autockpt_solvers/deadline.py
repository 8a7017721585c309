"""How much time a search may still take."""

from __future__ import annotations

import time

_LEAST_S = 0.05  # a search that is asked late still answers


def seconds_left(deadline: float, *, share: float = 1.0, least_s: float = _LEAST_S) -> float:
    """Return a share of the time until a deadline, but never less than a search needs to answer.

    Args:
        deadline: Time at which the search ends, as `time.monotonic` counts it.
        share: The share of the time left that the search may take.
        least_s: What it gets if the time is nearly over.
    """
    return max(least_s, (deadline - time.monotonic()) * share)
