"""What several searches of one graph share: made by the first, handed to the others."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_Made = TypeVar("_Made")
_shared: ContextVar[dict[str, Any] | None] = ContextVar("shared", default=None)


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Within it, `once` remembers; all its callers must be about one graph and one seed."""
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def once(name: str, make: Callable[[], _Made]) -> _Made:
    """What `make` gives, made at most once within `sharing`.

    Args:
        name: Names it, and the room if what is made depends on that.
        make: Makes it. Whoever changes the value must change a copy.
    """
    shared = _shared.get()
    if shared is None:
        return make()
    if name not in shared:
        shared[name] = make()
    made: _Made = shared[name]
    return made
