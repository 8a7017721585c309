"""The smallest device with more memory that holds a step as it is."""

from __future__ import annotations

from collections.abc import Callable

import torch

from autockpt.devices.attention import has_kernels_of
from autockpt.devices.device import Device
from autockpt.devices.table import DEVICES
from autockpt.fitting.step import SizedStep
from autockpt.ladder.graphs import GraphPlanner
from autockpt.torch_private.pytree import tree_leaves

_AMPERE = (8, 0)


def on_larger_device(
    planner: GraphPlanner,
    sized: Callable[[GraphPlanner], SizedStep],
    recorded_for: Callable[[Device], GraphPlanner],
) -> SizedStep | None:
    """Returns a step on the smallest device of the table that holds it as it is.

    Args:
        planner: The step on its own device.
        sized: A captured step, sized.
        recorded_for: Captures the same step for another device.

    Returns:
        The step there; None if no device of the table holds it.
    """
    step = sized(planner)
    kinds = [(planner, step)]  # one for each set of kernels that was recorded
    larger = [d for d in DEVICES.values() if d.usable_bytes > step.device.usable_bytes]
    for device in sorted(larger, key=lambda d: d.usable_bytes):
        if device.usable_bytes < step.least_bytes:
            continue
        alike = next((kind for kind in kinds if _needs_the_same(kind[0], device)), None)
        if alike is None:
            there = recorded_for(device)
            alike = there, sized(there)
            kinds.append(alike)
        known, needed = alike
        kept_bytes = device.workspace_bytes - needed.device.workspace_bytes
        if needed.peak_bytes + kept_bytes <= device.usable_bytes:
            return needed if needed.device is device else sized(known.on(device))
    return None


def _needs_the_same(planner: GraphPlanner, device: Device) -> bool:
    """Whether a step needs the same on another device, but for what libraries keep.

    Devices differ in their kernels for attention. In single precision NVIDIA's have one, which runs
    for at least as many shapes before Ampere as since.
    """
    own = planner.step.request.device
    assert own is not None
    attention = _attention(planner)
    if has_kernels_of(device, own) or not attention:
        return True
    if own.capability is None or device.capability is None or own.capability < _AMPERE:
        return False
    is_single = {dtype for _, dtype in attention} == {torch.float32}
    is_fused = all("attention" in name for name, _ in attention)
    return is_single and (is_fused or device.capability >= _AMPERE)


def _attention(planner: GraphPlanner) -> set[tuple[str, torch.dtype]]:
    """The operators of attention, one for all or a softmax between products, with their types."""
    return {
        (op.node.name, value.dtype)
        for graph in planner.captured.graphs
        for op in graph.joint.ops
        if "attention" in op.node.name or op.node.name.startswith(("_softmax", "_safe_softmax"))
        for value in tree_leaves(op.node.meta.get("val"))
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
