"""Operators that take the times of a roofline: the same plans on every machine, under any load."""

from __future__ import annotations

import torch
from torch import fx

from autockpt.profile import operators
from autockpt.profile.roofline import device_of, roofline


def estimate_times() -> None:
    """Let all operators of this process take such times. Their memory is measured as always."""
    operators._runtimes_ns = _estimated_ns


def _estimated_ns(
    missing: dict[str, fx.Node], known: list[fx.Node], device: torch.device
) -> list[int]:
    assert not set(known) & set(missing.values())
    return [roofline(node, device_of(device)).runtime_ns for node in missing.values()]
