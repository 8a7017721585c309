"""Measured peaks of real steps, from the profiler's memory events or the allocator."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import torch

from autockpt.errors import CaptureError
from autockpt.torch_private.modes import profiler_is_on


def measure_peak_bytes(step: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """Measures the peak bytes that ``step`` allocates beyond what is allocated before it.

    Every allocation of the device's allocator counts, including operator workspace. Set gradients
    to None first: if a block is older than the measurement, freeing it is not seen.

    Args:
        step: Runs one training step; what it returns or keeps counts.
        device: The model's device. On the CPU this adds up the profiler's memory events; elsewhere
            it reads the allocator's own peak.
    """
    device = torch.device(device)
    gc.collect()
    if device.type != "cpu":
        module = torch.get_device_module(device)
        module.synchronize(device)
        module.reset_peak_memory_stats(device)
        before_bytes = module.memory_allocated(device)
        step()
        module.synchronize(device)
        return int(module.max_memory_allocated(device) - before_bytes)
    with memory_profile() as session:
        step()
    return max((live_bytes for _, live_bytes in memory_timeline(session)), default=0)


@contextlib.contextmanager
def old_objects_set_aside() -> Iterator[None]:
    """Lets the garbage collector skip older objects: every measurement runs it."""
    if gc.get_freeze_count():  # the caller froze objects, and does not want that undone
        yield
        return
    gc.collect()
    try:
        gc.freeze()
        yield
    finally:
        gc.unfreeze()


def is_profiling() -> bool:
    """Whether a torch profiler is running; then peaks on the CPU cannot be measured."""
    return profiler_is_on()


@contextlib.contextmanager
def memory_profile() -> Iterator[Any]:
    """Runs a profiler on the CPU that records every allocation and every free."""
    # Some builds of torch print two lines per session; the level is read at the first session.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    if is_profiling():
        raise CaptureError(
            where="the memory of a step",
            reason="a torch profiler is running, and measuring here would end it",
            advice="Plan before profiling: pass sample_args to autockpt.optimize, or take one "
            "training step first.",
        )
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as session:
        yield session


def memory_timeline(session: Any) -> list[tuple[int, int]]:
    """Returns (time in ns, live bytes since the start) after each allocation and free."""
    events = sorted(
        (event.start_ns(), event.nbytes())
        for event in session.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    timeline = []
    live_bytes = 0
    for time_ns, num_bytes in events:
        live_bytes += num_bytes
        timeline.append((time_ns, live_bytes))
    return timeline


def available_bytes(device: torch.device) -> int:
    """Returns the memory that is free on this device."""
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    free_bytes, _ = torch.get_device_module(device).mem_get_info(device)
    return int(free_bytes)
