"""What every test stands on: one thread, fixed examples, a cache of its own."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# Examples are derived from the test itself: the same run everywhere, on machines of any speed.
settings.register_profile("autockpt", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("autockpt")

# A bug in autockpt must not pass for a model that no rung but a lower one serves.
os.environ.setdefault("AUTOCKPT_RAISE", "1")

# Tests that look at progress turn it on in processes of their own.
os.environ.setdefault("AUTOCKPT_PROGRESS", "0")

# A shell that starts the tests in the background lets them ignore SIGINT, and processes that tests
# start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tracing makes many objects that stay: looking at them this often takes a twentieth of the time.
gc.set_threshold(20_000, 20, 20)

# The engine's tests run without torch; the others share the machine with several workers.
_HAS_TORCH = importlib.util.find_spec("torch") is not None
if _HAS_TORCH:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep measured operator times out of the user's cache, and the user's out of the tests.

    All workers of a run share one folder, so that each operator is measured once.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "autockpt-cache"
    folder.mkdir(exist_ok=True)
    # A plan that an earlier test left would hide how plans are made.
    settings = {"AUTOCKPT_CACHE_DIR": str(folder), "AUTOCKPT_PLAN_CACHE": "0"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ |= settings
    yield folder
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


class _Garbage:
    """What tests leave behind, see `_older_objects_frozen`."""

    # A full collection looks at millions of objects, so that it waits until there are enough.
    NUM_OBJECTS = 400_000

    def __init__(self) -> None:
        self._num_kept = 0

    def collect(self) -> None:
        """Collect it if it may be much."""
        if gc.get_freeze_count() < self._num_kept + self.NUM_OBJECTS:
            return
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._num_kept = gc.get_freeze_count()


_GARBAGE = _Garbage()


@pytest.fixture(autouse=True, scope="module")
def _garbage_collected() -> Iterator[None]:
    yield
    _GARBAGE.collect()


@pytest.fixture(autouse=True)
def _older_objects_frozen() -> None:
    """Keep everything made before the test out of garbage collections.

    Every measurement of a peak collects garbage, and half a million objects of torch and other
    libraries would make that the slowest part of many tests.
    """
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _same_times_everywhere() -> None:
    """Plan by times that are the same everywhere; processes that tests start measure theirs."""
    if _HAS_TORCH:
        from estimated_times import estimate_times

        estimate_times()


@pytest.fixture(scope="module")
def short_searches() -> Iterator[None]:
    """A twentieth of the solver's usual effort, for what holds at any effort."""
    from autockpt_solvers.methods.ilp import pool
    from autockpt_solvers.methods.local import method
    from autockpt_solvers.refinement import refine

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (refine, "_STEPS_PER_OP"),
            (pool, "_MAX_OPS_REPLAYED"),
            (method, "_STEPS_PER_RUN"),
        ):
            patch.setattr(module, name, getattr(module, name) // 20)
        yield
