"""The capacities of the networks whose minimum cuts say what to keep."""

from __future__ import annotations

PER_NS = 1 << 10  # flows are integers: capacities are times and prices in 1/1024 ns
UNCUT = 1 << 58  # for arcs that no minimum cut may cross; all times together are far below
