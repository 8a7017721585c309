"""Results on disk: a line for each captured model and each cell, written whole, never rewritten.

A line is found again by its key, a hash of everything that decides what it says. So an experiment
goes on where it was interrupted, and one that was changed solves only what is new.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, TypeVar, Union

import msgspec

from autockpt.experiments.spec import ExperimentError


class Captured(msgspec.Struct, frozen=True, kw_only=True, tag="captured"):
    """A model that was captured for a device.

    Attributes:
        key: What it is found by.
        model: Its name.
        device: The device.
        cost_source: Where the times of operations come from, as in a plan.
        num_ops: Operations of the engine's graph.
        fixed_bytes: Bytes in use during the whole step.
        eager_peak_bytes: The peak of the eager step.
        free_bytes: The smallest budget for which nothing is recomputed.
        step_ns: The time of all operations, each run once.
        least_bytes: The smallest budget that a plan was found for.
        least_bound_bytes: No plan needs less, proven.
    """

    key: str
    model: str
    device: str
    cost_source: str
    num_ops: int
    fixed_bytes: int
    eager_peak_bytes: int
    free_bytes: int
    step_ns: int
    least_bytes: int
    least_bound_bytes: int


class Cell(msgspec.Struct, frozen=True, kw_only=True, tag="cell"):
    """The answer of one method for one budget of one model on one device.

    Attributes:
        key: What it is found by.
        captured: The key of its captured model.
        model: The model's name.
        device: The device.
        method: The method that was asked.
        budget: The budget as it was asked.
        budget_bytes: The budget.
        status: What the method found, as `autockpt_solvers.SolveStatus`.
        peak_bytes: The peak of the plan, everything counted; 0 without a plan.
        recompute_ns: Time of repeated runs.
        lower_bound_ns: No plan of the bound's class recomputes less.
        overhead: `recompute_ns` as a share of the step.
        lower_bound: `lower_bound_ns` as a share of the step.
        bound_class: The plans that the bound holds for.
        solve_s: Time on the clock from the call of the solver to its answer.
        solve_cpu_s: Processor time of the same, of all threads.
    """

    key: str
    captured: str
    model: str
    device: str
    method: str
    budget: str
    budget_bytes: int
    status: str
    peak_bytes: int = 0
    recompute_ns: int = 0
    lower_bound_ns: int = 0
    overhead: float = 0.0
    lower_bound: float = 0.0
    bound_class: str = ""
    solve_s: float = 0.0
    solve_cpu_s: float = 0.0

    @property
    def has_plan(self) -> bool:
        """Whether the method found a plan."""
        return self.peak_bytes > 0


_Kind = TypeVar("_Kind", bound=msgspec.Struct)


def key_of(**parts: Any) -> str:
    """A hash of what decides a result."""
    text = msgspec.json.encode(parts, order="deterministic")
    return hashlib.sha256(text).hexdigest()[:20]


class Results:
    """The results of an experiment in a folder."""

    def __init__(self, folder: Path, *kinds: type[msgspec.Struct]) -> None:
        """Read what is there.

        Args:
            folder: The folder; it is made if it is not there.
            kinds: The kinds of lines, each with a tag and a ``key``; by default those of an
                experiment.

        Raises:
            ExperimentError: The folder cannot be used, or contains something else.
        """
        self.folder = folder
        self._file = folder / "results.jsonl"
        self._lines: dict[str, Any] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            data = self._file.read_bytes() if self._file.exists() else b""
        except OSError as error:
            raise ExperimentError(f"cannot use the folder {folder}: {error.strerror}") from error
        decoder: Any = msgspec.json.Decoder(Union[kinds or (Captured, Cell)])  # noqa: UP007
        lines = data.split(b"\n")
        for number, line in enumerate(lines[:-1], 1):
            try:
                found = decoder.decode(line)
            except msgspec.MsgspecError as error:
                raise ExperimentError(
                    f"line {number} of {self._file} is no result ({error}); delete the line, or "
                    "name another folder"
                ) from error
            self._lines[found.key] = found
        if lines[-1]:  # a run was killed while it wrote
            self._cut(len(data) - len(lines[-1]))

    def _cut(self, size: int) -> None:
        with self._file.open("r+b") as stream:
            stream.truncate(size)

    def find(self, kind: type[_Kind], key: str) -> _Kind | None:
        """The result of a kind with a key, if it is there."""
        found = self._lines.get(key)
        return found if isinstance(found, kind) else None

    def add(self, line: Any) -> None:
        """Keep a result, on disk before this returns.

        Args:
            line: A result of one of the kinds, with its key.

        Raises:
            ExperimentError: It cannot be written.
        """
        try:
            with self._file.open("ab") as stream:
                stream.write(msgspec.json.encode(line) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise ExperimentError(f"cannot write {self._file}: {error.strerror}") from error
        self._lines[line.key] = line
