"""The peak of one eager step in each of its phases: what the model's own code needs between calls.

Calls of modules are measured one by one. The code around them is not, the loss included: it cannot
be run alone. So one whole step runs as eager does, and the peak is noted from mark to mark. The
forward passes a mark where a call begins or ends; the backward passes it again when the gradient of
what the call received or returned is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterator
from typing import Any

import torch

from autockpt import progress
from autockpt.torch_private.pytree import tree_leaves
from autockpt.verify.copies import own_copies
from autockpt.verify.peak import available_bytes, is_profiling, memory_profile, memory_timeline
from autockpt.verify.replaced import replaced_forwards
from autockpt.verify.step import Step

_MARK = "autockpt.mark "


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Peaks above what was in memory before the step; the optimizer's step is not in it.

    Attributes:
        peak_bytes: The peak of the whole step.
        forward_bytes: The peak of the forward in each segment. Segment 0 ends at the first mark,
            and a segment more begins at each mark.
        backward_bytes: The peak of the backward of each segment.
    """

    peak_bytes: int
    forward_bytes: dict[int, int]
    backward_bytes: dict[int, int]


def measure_phases(step: Step, expected_bytes: int) -> Phases | None:
    """Run a step as it is and measure its phases; the model is left as it was.

    Args:
        step: The step.
        expected_bytes: About what it needs.

    Returns:
        None if it does not fit in the free memory, or a profiler is running.
    """
    if expected_bytes >= available_bytes(step.device) or is_profiling():
        return None
    progress.stage("running eager's step, phase by phase")
    marks = _HostMarks() if step.device.type == "cpu" else _DeviceMarks(step.device)
    watched = _Watched(step, marks)
    try:
        with step.state_kept() as outside, replaced_forwards(watched.modules(), watched.call):
            inputs = own_copies((step.args, dict(step.kwargs)))
            gc.collect()
            with marks.measured():
                watched.step().run([], inputs, outside)
    except (MemoryError, torch.OutOfMemoryError):
        return None
    peaks = marks.peaks
    return Phases(
        peak_bytes=max(peaks.values(), default=0),
        forward_bytes={n: peak for (is_backward, n), peak in peaks.items() if not is_backward},
        backward_bytes={n: peak for (is_backward, n), peak in peaks.items() if is_backward},
    )


class _Watched:
    """Passes a mark at each call of a module, forward and backward."""

    def __init__(self, step: Step, marks: _HostMarks | _DeviceMarks) -> None:
        self._step = step
        self._marks = marks
        self._num_passed = 0

    def modules(self) -> dict[str, torch.nn.Module]:
        """The modules to watch."""
        return {
            path: module
            for path, module in self._step.module.named_modules()
            if path and not isinstance(module, torch.jit.ScriptModule)
        }

    def step(self) -> Step:
        """The step, with a mark where its backward begins."""
        step = self._step

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = step.forward(*args, **kwargs)
            if step.loss_fn is None:
                self._note_backward(output)
            return output

        def loss_fn(output: Any) -> torch.Tensor:
            assert step.loss_fn is not None
            loss = step.loss_fn(output)
            self._note_backward(loss)
            return loss

        return dataclasses.replace(
            step, forward=forward, loss_fn=None if step.loss_fn is None else loss_fn
        )

    def call(self, _: str, __: torch.nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the forward of a module."""

        def marked(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            self._pass((args, kwargs))
            output = forward(*args, **kwargs)
            self._pass(output)
            return output

        return marked

    def _pass(self, values: Any) -> None:
        self._note_backward(values)
        self._num_passed += 1
        self._marks.mark(is_backward=False, segment=self._num_passed)

    def _note_backward(self, values: Any) -> None:
        """Pass a mark again when the gradients of these values are complete."""
        segment = self._num_passed

        def passed(_: torch.Tensor) -> None:
            self._marks.mark(is_backward=True, segment=segment)

        for leaf in tree_leaves(values):
            if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
                leaf.register_hook(passed)


class _HostMarks:
    """Marks among the profiler's memory events."""

    def __init__(self) -> None:
        self.peaks: dict[tuple[bool, int], int] = {}

    def mark(self, *, is_backward: bool, segment: int) -> None:
        with torch.profiler.record_function(f"{_MARK}{int(is_backward)} {segment}"):
            pass

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        with memory_profile() as session:
            yield
        marks = []
        for event in session.profiler.kineto_results.events():
            if event.name().startswith(_MARK):
                is_backward, segment = event.name().removeprefix(_MARK).split()
                marks.append((event.start_ns(), (bool(int(is_backward)), int(segment))))
        marks.sort(reverse=True)
        phase, live_bytes = (False, 0), 0
        for time_ns, now_bytes in memory_timeline(session):
            while marks and marks[-1][0] <= time_ns:
                phase = marks.pop()[1]
                self.peaks[phase] = max(self.peaks.get(phase, 0), live_bytes)
            live_bytes = now_bytes
            self.peaks[phase] = max(self.peaks.get(phase, 0), live_bytes)


class _DeviceMarks:
    """Marks at which the peak of the device's allocator is read."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: Any = torch.get_device_module(device)
        self._phase = (False, 0)
        self._before_bytes = 0
        self.peaks: dict[tuple[bool, int], int] = {}

    def mark(self, *, is_backward: bool, segment: int) -> None:
        peak_bytes = self._memory.max_memory_allocated(self._device) - self._before_bytes
        self.peaks[self._phase] = max(self.peaks.get(self._phase, 0), peak_bytes)
        self._memory.reset_peak_memory_stats(self._device)
        self._phase = (is_backward, segment)

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        self._memory.synchronize(self._device)
        self._memory.reset_peak_memory_stats(self._device)
        self._before_bytes = self._memory.memory_allocated(self._device)
        yield
        self._memory.synchronize(self._device)
        self.mark(is_backward=True, segment=0)
