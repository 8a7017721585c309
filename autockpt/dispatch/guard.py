"""A guard while training: steps that take more than their budget are planned again, tighter.

It reads the allocator's own counters, never resets them, and never waits for the device. What it
learns in one step is acted on when the next one begins, when no activations are in memory.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import torch

from autockpt.budget import format_bytes
from autockpt.dispatch.call import Call
from autockpt.dispatch.maker import PlanMaker
from autockpt.dispatch.partners import Partners
from autockpt.dispatch.replanning import tighten
from autockpt.errors import AutockptError, BudgetError
from autockpt.ladder.executable import is_one_graph
from autockpt.report.plan import Plan
from autockpt.torch_private.autograd import after_backward
from autockpt.torch_private.dynamo import has_resumed
from autockpt.torch_private.tensors import set_write_counts, write_count
from autockpt.user_warnings import warn_user
from autockpt.verify import device_memory
from autockpt.verify.inputs import input_leaves
from autockpt.verify.live_bytes import distinct_bytes
from autockpt.verify.peak import is_profiling
from autockpt.verify.random_state import random_states, set_random_states

_FIRST_STEPS, _EVERY = 3, 100  # the steps of a plan that are measured
_LEAST_SHARE = 0.05  # of the budget is held back at least after a step that ran out of memory
_MOST = 3  # plans that are made tighter


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """A step that is measured, from its call to the end of its backward.

    Attributes:
        plan: The plan that it follows.
        number: Which step it is since the plan was made.
        device: Where it runs.
        before: What was allocated when it began.
        held_bytes: What of the step counts as allocated then, by the plan.
    """

    plan: Plan
    number: int
    device: torch.device
    before: device_memory.Usage
    held_bytes: int

    def step_bytes(self, allocated_bytes: int) -> int:
        """What the step has in memory when so much is allocated on its device."""
        return self.held_bytes + allocated_bytes - self.before.allocated_bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """Why to plan tighter.

    Attributes:
        text: What happened, for the warning.
        more_bytes: How much more is to be held back.
    """

    text: str
    more_bytes: int


class Guard:
    """Measures steps of one module now and then, and lets its plans be made tighter."""

    def __init__(self, maker: PlanMaker, partners: Partners) -> None:
        self._maker = maker
        self._partners = partners
        self._latest: _Window | None = None
        self._window: _Window | None = None  # the latest, if it is measured
        self._finding: _Finding | None = None
        self._num_steps = 0
        self._num_tightened = 0
        # The module's buffers as they were when a step was last measured: finding them takes long.
        self._buffers: list[torch.Tensor] = []
        # How often a call that succeeds writes to each of them.
        self._usual_writes: list[int] | None = None

    def run(self, call: Call, forward: Callable[..., Any]) -> Any:
        """Run a training call by its plan, under guard."""
        args, kwargs = call.args, call.kwargs
        device = self._device(call)
        if device is None:
            return forward(*args, **kwargs)
        self._note_failed_backward(forward)
        if self._finding is not None and not is_profiling():
            finding, self._finding = self._finding, None
            self._tighten(call, finding)
            forward = self._maker.store.forward(call.key) or forward
        plan = self._maker.store.value(call.key)
        if plan is None:
            return forward(*args, **kwargs)
        window = self._begin(call, plan, device)
        changes = _Changes(self._buffers, (args, dict(kwargs)), device)
        try:
            output = forward(*args, **kwargs)
            if self._usual_writes is None:
                self._usual_writes = changes.writes_to_buffers()
            return output
        except torch.OutOfMemoryError as error:
            failure = error
            at_bytes = window.step_bytes(device_memory.usage(device).allocated_bytes)
            # The frames of the call keep its activations.
            traceback.clear_frames(error.__traceback__)
        self._window = None
        device_memory.release(device)
        finding = self._out_of_memory("the forward of a step", plan, at_bytes)
        return self._run_again(call, finding, changes, failure)

    def skip_step(self) -> None:
        """Measure no more of this step: something runs in it that its plan does not count."""
        self._window = None

    def begin_backward(self) -> None:
        """Note that a backward begins; call it in one."""
        if self._window is not None:
            after_backward(self._end)

    def _device(self, call: Call) -> torch.device | None:
        """The device of a call that is to be watched."""
        # Ranks agree on plans before anything is seen.
        if not self._maker.request.watch or call.parallel is not None:
            return None
        device = next((p.device for p in self._maker.module.parameters()), None)
        return device if device is not None and device_memory.has_own_memory(device) else None

    def _begin(self, call: Call, plan: Plan, device: torch.device) -> _Window:
        self._num_steps += 1
        is_measured = self._num_steps <= _FIRST_STEPS or self._num_steps % _EVERY == 0
        if self._window is not None and call.key.loop.num_calls > 1 and is_measured:
            return self._window  # it began with the first of several calls
        gradients_bytes = plan.older_gradients_bytes
        others_bytes = plan.fixed.other_models_bytes
        if is_measured:
            others_bytes = self._partners.in_memory_bytes if others_bytes else 0
            gradients_bytes = distinct_bytes([p.grad for p in self._maker.module.parameters()])
            if not self._has_these_buffers():
                self._buffers, self._usual_writes = list(self._maker.module.buffers()), None
        window = _Window(
            plan=plan,
            number=self._num_steps,
            device=device,
            before=device_memory.usage(device),
            held_bytes=plan.fixed.resting_bytes
            - plan.fixed.other_models_bytes
            + others_bytes
            + gradients_bytes,
        )
        self._latest, self._window = window, window if is_measured else None
        return window

    def _has_these_buffers(self) -> bool:
        """Whether `_buffers` are still the module's."""
        return list(map(id, self._maker.module.buffers())) == list(map(id, self._buffers))

    def _end(self) -> None:
        """Compare what the step has taken with its budget."""
        window, self._window = self._window, None
        if window is None or self._num_tightened > _MOST:
            return
        now = device_memory.usage(window.device)
        if now.peak_bytes <= window.before.peak_bytes:
            return  # something before it took more, so its own peak is not known
        plan, measured_bytes = window.plan, window.step_bytes(now.peak_bytes)
        if self._partners.have_worked and not plan.fixed.other_models_bytes:
            return  # theirs is a part of the peak, and not of the plan
        excess_bytes = measured_bytes - plan.budget_bytes
        if excess_bytes <= 0:
            return
        error_bytes = measured_bytes - plan.predicted_peak_bytes - self._held_back_bytes
        self._finding = _Finding(
            text=f"step {window.number} of a plan for {self._name} took "
            f"{format_bytes(measured_bytes)}, {format_bytes(excess_bytes)} more than the budget of "
            f"{format_bytes(plan.budget_bytes)} (predicted: "
            f"{format_bytes(plan.predicted_peak_bytes)}; the allocator has reserved "
            f"{format_bytes(now.reserved_bytes)})",
            more_bytes=max(excess_bytes, error_bytes),
        )

    @property
    def _held_back_bytes(self) -> int:
        return self._maker.store.held_back_bytes

    @property
    def _name(self) -> str:
        return type(self._maker.module).__name__

    def _note_failed_backward(self, forward: Callable[..., Any]) -> None:
        """Learn that the backward of an earlier call ran out of memory."""
        allocated_bytes = getattr(forward, "out_of_memory_at", None)
        window = self._latest
        if allocated_bytes is None or window is None:
            return
        step_bytes = window.step_bytes(allocated_bytes) if allocated_bytes else 0
        self._finding = self._out_of_memory("the backward of a step", window.plan, step_bytes)

    def _out_of_memory(self, what: str, plan: Plan, step_bytes: int) -> _Finding:
        """What to do about a step that ran out of memory when it had so many bytes, if known."""
        budget_bytes = plan.budget_bytes - self._held_back_bytes
        missing_bytes = budget_bytes - step_bytes if step_bytes > 0 else 0
        at = f" with {format_bytes(step_bytes)} in memory" if step_bytes > 0 else ""
        return _Finding(
            text=f"{what} of {self._name} ran out of memory{at} (budget: "
            f"{format_bytes(plan.budget_bytes)}, predicted: "
            f"{format_bytes(plan.predicted_peak_bytes)})",
            more_bytes=max(missing_bytes, int(_LEAST_SHARE * plan.budget_bytes)),
        )

    def _tighten(self, call: Call, finding: _Finding, *, tries: bool = True) -> bool:
        """Plan tighter and say so; returns whether there is such a plan."""
        if self._num_tightened > _MOST:
            return False
        self._num_tightened += 1
        if self._num_tightened > _MOST:
            warn_user(f"{finding.text}. autockpt has planned {_MOST} times with less, and stops.")
            return False
        held_back_bytes = self._held_back_bytes + finding.more_bytes
        less = format_bytes(held_back_bytes)
        try:
            plan = tighten(self._maker, call, held_back_bytes, tries=tries)
        except BudgetError as error:
            least = format_bytes(error.minimum_peak_bytes + held_back_bytes)
            warn_user(
                f"{finding.text}. No plan fits with {less} less, so the plan stays. Raise the "
                f"budget to {least}, or use a smaller batch."
            )
            self._num_tightened = _MOST + 1
            return False
        except (AutockptError, torch.OutOfMemoryError) as error:
            warn_user(f"{finding.text}. Planning again failed, so the plan stays: {error}")
            return False
        self._num_steps, self._window = 0, None
        warn_user(
            f"{finding.text}. autockpt has planned again with {less} less: steps now recompute "
            f"{plan.overhead:.0%}."
        )
        return True

    def _run_again(
        self, call: Call, finding: _Finding, changes: _Changes, failure: torch.OutOfMemoryError
    ) -> Any:
        """Plan a call tighter that has run out of memory, and run it again if nothing changed.

        Raises:
            torch.OutOfMemoryError: It runs out of memory again, or cannot be run again.
        """
        executable = self._maker.store.plan_of(call.key)
        is_graph = executable is not None and is_one_graph(executable.program)
        may_run = is_graph and self._has_these_buffers() and not has_resumed(failure)
        if not may_run or not changes.are_undone(self._usual_writes):
            self._finding = finding
            failure.add_note(
                "autockpt cannot run this step again, because its forward may have changed the "
                "model already. If you go on, it plans the next step tighter."
            )
            raise failure
        if not self._tighten(call, finding, tries=False):
            failure.add_note("autockpt has no tighter plan to run this step again.")
            raise failure
        forward = self._maker.store.forward(call.key)
        assert forward is not None
        return forward(*call.args, **call.kwargs)


class _Changes:
    """What a forward of one graph may have changed when it fails: generators, buffers, inputs.

    Python code runs before and after the graph only, and Dynamo applies what it does afterwards.
    """

    def __init__(self, buffers: list[torch.Tensor], inputs: Any, device: torch.device) -> None:
        self._device = device
        self._states = random_states(device)
        self._buffers = list(_write_counts(buffers))
        self._inputs = list(_write_counts(input_leaves(inputs)))

    def writes_to_buffers(self) -> list[int]:
        """How often each buffer was written to since."""
        return [write_count(tensor) - count for tensor, count in self._buffers]

    def are_undone(self, usual_writes: list[int] | None) -> bool:
        """Put generators back; returns whether nothing else was changed.

        A graph writes once to each buffer that it changes. Before it runs, AOTAutograd counts some
        of these writes in advance, so it is the last one that tells.

        Args:
            usual_writes: How often a call that succeeds writes to each buffer, if that is known.
        """
        set_random_states(self._states, self._device)
        writes = self.writes_to_buffers()
        usual_writes = usual_writes or [0] * len(writes)
        if any(write_count(tensor) != count for tensor, count in self._inputs):
            return False
        if any(n and n >= usual for n, usual in zip(writes, usual_writes, strict=True)):
            return False
        set_write_counts(self._buffers)
        return True


def _write_counts(values: Iterable[Any]) -> Iterable[tuple[torch.Tensor, int]]:
    for value in values:
        if isinstance(value, torch.Tensor) and not value.is_inference():
            yield value, write_count(value)
