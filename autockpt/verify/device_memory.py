"""How much memory of a device a training step can have now."""

from __future__ import annotations

import dataclasses
import gc

import torch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """The memory of a device, and what of it is left for this process.

    Attributes:
        total_bytes: All of it.
        free_bytes: What the driver can still give to any process.
        cached_bytes: What PyTorch's allocator keeps without using it, and gives out or back.
    """

    total_bytes: int
    free_bytes: int
    cached_bytes: int

    def usable_bytes(self, held_bytes: int) -> int:
        """Returns what a whole step can have if it holds some bytes of the device already."""
        return self.free_bytes + self.cached_bytes + held_bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What PyTorch's allocator has given out and taken on a device, for the whole process.

    Attributes:
        allocated_bytes: What tensors use now.
        peak_bytes: The most that they have used since the process began, or somebody reset it.
        reserved_bytes: What the allocator has taken of the device.
    """

    allocated_bytes: int
    peak_bytes: int
    reserved_bytes: int


def usage(device: torch.device) -> Usage:
    """Returns what the allocator of an accelerator has given out; waits for nothing."""
    # One call: each of memory_allocated, max_memory_allocated and memory_reserved makes it too.
    counters = torch.get_device_module(device).memory_stats(device)
    return Usage(
        allocated_bytes=int(counters.get("allocated_bytes.all.current", 0)),
        peak_bytes=int(counters.get("allocated_bytes.all.peak", 0)),
        reserved_bytes=int(counters.get("reserved_bytes.all.current", 0)),
    )


def release(device: torch.device) -> None:
    """Gives memory back that is no longer used, after a failure."""
    gc.collect()
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


def has_own_memory(device: torch.device) -> bool:
    """Whether a device is an accelerator, whose memory is counted apart from the host's."""
    return device.type not in ("cpu", "meta", "mps")


def is_any_here() -> bool:
    """Whether this machine has an accelerator."""
    return torch.accelerator.is_available()


def device_memory(device: torch.device) -> DeviceMemory:
    """Returns the memory of an accelerator as it is now."""
    module = torch.get_device_module(device)
    free_bytes, total_bytes = module.mem_get_info(device)
    cached_bytes = module.memory_reserved(device) - module.memory_allocated(device)
    return DeviceMemory(
        total_bytes=int(total_bytes), free_bytes=int(free_bytes), cached_bytes=int(cached_bytes)
    )
