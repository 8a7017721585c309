"""The smallest device with more memory that holds a step as it is."""

from __future__ import annotations

from collections.abc import Callable

from autockpt.devices.attention import has_kernels_of
from autockpt.devices.device import Device
from autockpt.devices.table import DEVICES
from autockpt.fitting.step import SizedStep


def on_larger_device(
    step: SizedStep, recorded_for: Callable[[Device], SizedStep]
) -> SizedStep | None:
    """Returns the step on the smallest device of the table that holds it as it is.

    Args:
        step: The step on its own device.
        recorded_for: The same step on another device.

    Returns:
        The step there; None if no device of the table holds it.
    """
    kinds = [step]  # one for each set of kernels that was recorded
    larger = [d for d in DEVICES.values() if d.usable_bytes > step.device.usable_bytes]
    for device in sorted(larger, key=lambda d: d.usable_bytes):
        if device.usable_bytes < step.least_bytes:
            continue
        alike = next((kind for kind in kinds if needs_the_same(kind, device)), None)
        if alike is None:
            alike = recorded_for(device)
            kinds.append(alike)
        kept_bytes = device.workspace_bytes - alike.device.workspace_bytes
        if alike.peak_bytes + kept_bytes <= device.usable_bytes:
            return alike if alike.device is device else recorded_for(device)
    return None


def needs_the_same(step: SizedStep, device: Device) -> bool:
    """Returns whether a step needs the same on another device, but for what libraries keep.

    Devices differ in the kernels of attention.
    """
    return has_kernels_of(device, step.device) or not any(
        "attention" in op.name or op.name.startswith(("_softmax", "_safe_softmax"))
        for op in step.problem.graph.ops
    )
