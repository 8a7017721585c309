"""Runs a script in this process, and watches its memory and its steps from a thread beside it."""

from __future__ import annotations

import contextlib
import gc
import json
import runpy
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from autockpt.api import get_plan
from autockpt.budget import format_bytes
from autockpt.command.grammar.usage_error import UserCodeError
from autockpt.command.running import exits
from autockpt.dispatch.lookup import optimized_methods
from autockpt.report.plan import Plan

_NUM_LOOKS = 3  # for an optimized model among all objects, which takes a while
_RECENT = 20  # steps that the shown time is the median of


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the process uses at a moment.

    Attributes:
        used_bytes: Bytes of tensors on the accelerator; without one, what the process has resident
            beyond what it had when the script began.
        reserved_bytes: What the allocator has taken of it; resident memory without one.
        utilisation_percent: How busy the accelerator is; None if that is not known.
    """

    used_bytes: int
    reserved_bytes: int
    utilisation_percent: int | None


@dataclass(slots=True, kw_only=True)
class Summary:
    """What a script took.

    Attributes:
        device: What was watched: `cuda`, or `cpu` for the memory of the process.
        seconds: How long it ran.
        peak_bytes: The most that it used.
        peak_reserved_bytes: The most that was reserved, or resident.
        step_times_s: Seconds between the steps of its optimizer.
        plan: The plan of its model, if it is known.
        exit_code: What the script exited with.
        error: How it failed; None if it did not.
    """

    device: str
    seconds: float = 0.0
    peak_bytes: int = 0
    peak_reserved_bytes: int = 0
    step_times_s: list[float] = field(default_factory=list)
    plan: Plan | None = None
    exit_code: int = 0
    error: UserCodeError | None = None

    @property
    def step_s(self) -> float | None:
        """The median step time; None if fewer than two steps were taken."""
        return statistics.median(self.step_times_s) if self.step_times_s else None

    def text(self) -> str:
        """Returns the summary as lines of text."""
        steps = "no steps" if self.step_s is None else f"{self.step_s * 1e3:.1f} ms a step (median)"
        rows = [("ran", f"{self.seconds:.1f} s, {len(self.step_times_s)} steps timed, {steps}")]
        if self.device == "cpu":
            rows.append(
                (
                    "peak",
                    f"{format_bytes(self.peak_reserved_bytes)} resident, "
                    f"{format_bytes(self.peak_bytes)} more than when the script began",
                )
            )
        else:
            rows.append(
                (
                    "peak",
                    f"{format_bytes(self.peak_bytes)} allocated, "
                    f"{format_bytes(self.peak_reserved_bytes)} reserved",
                )
            )
        if self.plan is not None:
            rows.append(("plan", self._beside_the_plan(self.plan)))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"autockpt: {name:<{width}}  {text}" for name, text in rows)

    def _beside_the_plan(self, plan: Plan) -> str:
        text = (
            f"peak {format_bytes(plan.peak_bytes)} of "
            f"{format_bytes(plan.budget_bytes)}, rung {plan.rung}"
        )
        if self.device == "cpu":
            return f"{text} (tensors only; a process has more)"
        over_bytes = self.peak_bytes - plan.budget_bytes
        stand = "within" if over_bytes <= 0 else f"{format_bytes(over_bytes)} over"
        return f"{text}; allocated {stand} the budget"

    def to_json(self) -> str:
        """Returns the summary as JSON text."""
        plan = self.plan
        return (
            json.dumps(
                {
                    "device": self.device,
                    "seconds": self.seconds,
                    "peak_bytes": self.peak_bytes,
                    "peak_reserved_bytes": self.peak_reserved_bytes,
                    "num_steps": len(self.step_times_s),
                    "median_step_s": self.step_s,
                    "budget_bytes": None if plan is None else plan.budget_bytes,
                    "predicted_peak_bytes": None if plan is None else plan.predicted_peak_bytes,
                    "exit_code": self.exit_code,
                    "error": None if self.error is None else str(self.error),
                },
                indent=1,
            )
            + "\n"
        )


def run_watched(
    script: Path,
    arguments: tuple[str, ...],
    *,
    every_s: float,
    plan: Plan | None,
    is_shown: bool,
) -> Summary:
    """Runs a script as Python does, and returns what it took.

    Args:
        script: The script.
        arguments: Its arguments.
        every_s: Seconds between two lines on standard error.
        plan: The plan of its model; None to look for an optimized model.
        is_shown: Whether lines are written.
    """
    watch = _Watch(every_s=every_s, plan=plan, is_shown=is_shown)
    summary = watch.summary
    began_s = time.monotonic()
    with watch.running(), _as_main(script, arguments):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            summary.exit_code = end.code if isinstance(end.code, int) else int(bool(end.code))
            if isinstance(end.code, str):
                sys.stderr.write(f"{end.code}\n")
        except KeyboardInterrupt:
            summary.exit_code = exits.INTERRUPTED
        except Exception as error:  # noqa: BLE001 - whatever the script does
            summary.error = UserCodeError(error, str(script))
            summary.error.__cause__ = error
    summary.seconds = time.monotonic() - began_s
    return summary


@contextlib.contextmanager
def _as_main(script: Path, arguments: tuple[str, ...]) -> Iterator[None]:
    argv, path = sys.argv, list(sys.path)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        yield
    finally:
        sys.argv = argv
        sys.path[:] = path


class _Watch:
    """A thread that reads what is used, and a hook that notes steps."""

    def __init__(self, *, every_s: float, plan: Plan | None, is_shown: bool) -> None:
        has_accelerator = torch.cuda.is_available()
        self.summary = Summary(device="cuda" if has_accelerator else "cpu", plan=plan)
        self._every_s, self._is_shown = every_s, is_shown
        self._process = psutil.Process()
        self._before_bytes = self._process.memory_info().rss
        self._last_step_s: float | None = None
        self._looks_left = 0 if plan is not None else _NUM_LOOKS
        self._end = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        hook = register_optimizer_step_post_hook(self._stepped)
        thread = threading.Thread(target=self._watch, daemon=True, name="autockpt-monitor")
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()
            hook.remove()
            self._note(self._usage())

    def _stepped(self, *_: object) -> None:
        now_s = time.monotonic()
        if self._last_step_s is not None:
            self.summary.step_times_s.append(now_s - self._last_step_s)
        self._last_step_s = now_s
        if self.summary.plan is None and self._looks_left:
            self._looks_left -= 1
            self.summary.plan = _plan_of_any_model()

    def _watch(self) -> None:
        began_s = time.monotonic()
        next_s = began_s + self._every_s
        # Peaks of a CPU are read often: nobody keeps them for us.
        while not self._end.wait(min(0.05, self._every_s)):
            usage = self._usage()
            self._note(usage)
            now_s = time.monotonic()
            if now_s >= next_s:
                next_s = now_s + self._every_s
                if self._is_shown:
                    sys.stderr.write(f"autockpt: {self._line(usage, now_s - began_s)}\n")

    def _usage(self) -> Usage:
        if self.summary.device == "cpu":
            resident_bytes = self._process.memory_info().rss
            return Usage(
                used_bytes=max(0, resident_bytes - self._before_bytes),
                reserved_bytes=resident_bytes,
                utilisation_percent=None,
            )
        percent = None
        with contextlib.suppress(Exception):  # needs the library of the driver
            percent = int(torch.cuda.utilization())
        return Usage(
            used_bytes=torch.cuda.max_memory_allocated(),
            reserved_bytes=torch.cuda.max_memory_reserved(),
            utilisation_percent=percent,
        )

    def _note(self, usage: Usage) -> None:
        summary = self.summary
        summary.peak_bytes = max(summary.peak_bytes, usage.used_bytes)
        summary.peak_reserved_bytes = max(summary.peak_reserved_bytes, usage.reserved_bytes)

    def _line(self, usage: Usage, elapsed_s: float) -> str:
        summary = self.summary
        parts = [f"{elapsed_s:.0f} s", f"step {len(summary.step_times_s)}"]
        if summary.step_times_s:
            parts.append(f"{statistics.median(summary.step_times_s[-_RECENT:]) * 1e3:.0f} ms/step")
        if summary.device == "cpu":
            parts.append(f"resident {format_bytes(usage.reserved_bytes)}")
            parts.append(f"peak {format_bytes(summary.peak_reserved_bytes)}")
        else:
            parts.append(f"peak allocated {format_bytes(summary.peak_bytes)}")
            parts.append(f"reserved {format_bytes(summary.peak_reserved_bytes)}")
        if usage.utilisation_percent is not None:
            parts.append(f"{usage.utilisation_percent}% busy")
        if summary.plan is not None:
            parts.append(
                f"plan {format_bytes(summary.plan.predicted_peak_bytes)} of "
                f"{format_bytes(summary.plan.budget_bytes)}"
            )
        return "  ".join(parts)


def _plan_of_any_model() -> Plan | None:
    """The plan of an optimized model of the script; None if there is none."""
    for each in gc.get_objects():
        # Proxies of other libraries may do anything when asked for their class.
        if issubclass(type(each), torch.nn.Module) and optimized_methods(each):
            plan = get_plan(each)
            if plan is not None:
                return plan
    return None
