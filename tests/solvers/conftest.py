from __future__ import annotations

from hypothesis import HealthCheck, settings

# Solves take a while on a shared machine; a law's failure must not depend on the clock.
settings.register_profile(
    "engine",
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("engine")
