"""What of a device's memory a budget leaves a training step."""

from __future__ import annotations

from autockpt.budget import Budget, format_bytes, parse_budget
from autockpt.devices.device import Device


def budget_of(budget: int | str | Budget | None, device: Device) -> int:
    """Returns the bytes of a budget on a device.

    Args:
        budget: The budget; None for all of the device's memory but its context.
        device: The device.

    Raises:
        ValueError: It is a share of the eager peak, or more than the device has.
    """
    if budget is None:
        return device.usable_bytes
    asked = parse_budget(budget)
    if asked.is_of_device:
        asked = asked.on_device(total_bytes=device.memory_bytes, usable_bytes=device.usable_bytes)
    if asked.bytes is None:
        raise ValueError(
            f'budget is {asked}; give an amount of memory, such as "40GB", "auto" or "80% of '
            'device"'
        )
    if asked.bytes > device.usable_bytes:
        raise ValueError(
            f"budget is {asked}, more than the {format_bytes(device.usable_bytes)} that a step can "
            f"have on {device.name}: {format_bytes(device.memory_bytes)} less "
            f"{format_bytes(device.context_bytes)} for the driver's context; give less, or a "
            "device with more memory"
        )
    return asked.bytes
