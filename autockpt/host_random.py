"""The random generators of Python and numpy, which a training loop may draw from.

Importing a library may draw from Python's: rich does.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np


def host_random_states() -> tuple[Any, ...]:
    """Returns the states of Python's and numpy's generators."""
    return random.getstate(), np.random.get_state(legacy=False)


def set_host_random_states(states: tuple[Any, ...]) -> None:
    """Restores states that :func:`host_random_states` returned."""
    random.setstate(states[0])
    np.random.set_state(states[1])


@contextlib.contextmanager
def kept_host_random_states(start: tuple[Any, ...] | None = None) -> Iterator[None]:
    """Restores both generators on exit.

    Args:
        start: What they start from inside; None for where they are.
    """
    before = host_random_states()
    if start is not None:
        set_host_random_states(start)
    try:
        yield
    finally:
        set_host_random_states(before)
