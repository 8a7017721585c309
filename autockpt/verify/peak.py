"""Measured peaks: what a step really holds, from the profiler's memory events or the allocator."""

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
    """Peak bytes that ``step`` allocates above what stands before it.

    Every allocation of the device's allocator counts, operator workspace included. Set gradients to
    None first: blocks older than the measurement are not seen when they are freed.

    Args:
        step: Runs one training step and returns nothing that it does not want counted.
        device: Where the model is. On the CPU the profiler's memory events are added up; elsewhere
            the allocator's own peak is read.
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
    """Within it the garbage collector looks at what was made since: each measurement runs it."""
    if gc.get_freeze_count():  # by whoever calls us, who will not want it undone
        yield
        return
    gc.collect()
    try:
        gc.freeze()
        yield
    finally:
        gc.unfreeze()


def is_profiling() -> bool:
    """Whether a profiler of torch runs: peaks on the CPU cannot be measured beside it."""
    return profiler_is_on()


@contextlib.contextmanager
def memory_profile() -> Iterator[Any]:
    """A profiler session on the CPU that notes every allocation and every free."""
    # Some builds of torch print two lines per session; the level is read at the first one.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    if is_profiling():
        raise CaptureError(
            where="the memory of a step",
            reason="a torch profiler is running, and measuring here would end it",
            advice="Plan before profiling: pass sample_args to autockpt.optimize, or take one "
            "training step first.",
        )
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as session:
        yield session


def memory_timeline(session: Any) -> list[tuple[int, int]]:
    """(time in ns, live bytes since the start) after every allocation and free of a CPU profile."""
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
    """Memory that is free for a step on this device."""
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    free_bytes, _ = torch.get_device_module(device).mem_get_info(device)
    return int(free_bytes)
