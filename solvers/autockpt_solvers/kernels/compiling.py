"""Compiling with numba, with a cache that no change of the code can make stale.

numba keeps compiled code as long as the file of the function itself stays the same. It does not
notice that a function which that one calls, in another file, has changed. So the engine keeps its
code in a folder whose name depends on all of its sources.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle  # for its error
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
import numba.core.event
import platformdirs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autockpt_solvers.clock import Clock

_Function = TypeVar("_Function", bound="Callable[..., object]")


def compiled(function: _Function) -> _Function:
    """Compile a function with numba when it is first called."""
    return _compile(function, {})


def compiled_within(function: _Function) -> _Function:
    """The same for a function that only compiled code calls; it compiles faster."""
    return _compile(function, {"no_cpython_wrapper": True, "no_cfunc_wrapper": True})


def _compile(function: _Function, options: dict[str, bool]) -> _Function:
    folder = cache_folder()
    with _cache_in(folder):
        made = numba.njit(cache=folder is not None, **options)(function)
    if folder is not None:
        made._cache = _TolerantCache(made._cache)
    return cast("_Function", made)


# What unpickling damaged data raises; not every exception, as a signal handler may raise others.
_OF_DAMAGED_FILES = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _TolerantCache:
    """numba's cache of one function, in which a damaged file is as good as none.

    numba raises whatever reading such a file raises, and there is no public way to catch it in
    time: a full disk or a killed process made every later search fail until the folder was deleted.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compiled code of a signature, or None if it must be compiled."""
        try:
            return self._cache.load_overload(signature, target_context)
        except _OF_DAMAGED_FILES:
            with contextlib.suppress(OSError):
                self._cache.flush()  # numba reads the index again before it saves
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        """Keep compiled code, if there is room."""
        with contextlib.suppress(OSError):
            self._cache.save_overload(signature, data)


@cache
def cache_folder() -> Path | None:
    """Where compiled code is kept; None if nothing can be written there.

    It is below `NUMBA_CACHE_DIR` if you set that, and otherwise in your cache folder.
    """
    digest = hashlib.sha256(numba.__version__.encode())
    package = Path(__file__).parent.parent
    for source in sorted(package.rglob("*.py")):
        digest.update(source.relative_to(package).as_posix().encode())
        digest.update(source.read_bytes())
    base: Any = numba.config.CACHE_DIR or platformdirs.user_cache_path("autockpt") / "numba"
    folder = Path(base) / f"autockpt-engine-{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


@contextlib.contextmanager
def compile_time_apart(clock: Clock) -> Iterator[None]:
    """Let a clock stand still whenever numba compiles the engine's code in this thread."""
    with numba.core.event.install_listener("numba:compile", _Pausing(clock)):
        yield


class _Pausing(numba.core.event.Listener):  # type: ignore[misc]  # numba has no types
    """Hears that numba begins to compile a function, and ends; within one it compiles others."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.thread = threading.get_ident()
        self.depth = 0

    def on_start(self, event: Any) -> None:
        if self._is_ours(event):
            self.depth += 1
            self.clock.pause("compiling the solver's kernels, once per installation")

    def on_end(self, event: Any) -> None:
        if self._is_ours(event):
            self.depth -= 1
            if not self.depth:
                self.clock.resume()

    def _is_ours(self, event: Any) -> bool:
        function = event.data["dispatcher"].py_func
        is_engine = function.__module__.startswith("autockpt_solvers.")
        return is_engine and threading.get_ident() == self.thread


@contextlib.contextmanager
def _cache_in(folder: Path | None) -> Iterator[None]:
    """Let numba keep what is decorated within in a folder, and restore your own setting after."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder or before)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before
