"""Optimizers: hooks that run around every step of the process.

Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


@contextlib.contextmanager
def no_global_step_hooks() -> Iterator[None]:
    """Keep hooks that are registered for all optimizers from running."""
    hooks: tuple[Any, ...] = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
    before = [dict(registered) for registered in hooks]
    for registered in hooks:
        registered.clear()
    try:
        yield
    finally:
        for registered, was in zip(hooks, before, strict=True):
            registered.update(was)
