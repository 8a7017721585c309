from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from autockpt_solvers.methods.ilp import pool
from autockpt_solvers.methods.local import method
from autockpt_solvers.refinement import refine

# Solves take a while on a shared machine; a law's failure must not depend on the clock.
settings.register_profile(
    "engine",
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("engine")


@pytest.fixture(scope="module")
def short_searches():
    """A twentieth of the usual effort, for laws that hold at any effort."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (refine, "_STEPS_PER_OP"),
            (pool, "_MAX_OPS_REPLAYED"),
            (method, "_STEPS_PER_RUN"),
        ):
            patch.setattr(module, name, getattr(module, name) // 20)
        yield
