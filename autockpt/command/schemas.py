"""JSON Schemas of what commands write with `--json`, from the types that the answers have."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, Literal

import msgspec

from autockpt.command.tasks.examination import Examination
from autockpt.experiments.page import ExperimentResults
from autockpt.experiments.peers.page import PeerResults
from autockpt.fitting.value import FitValues
from autockpt.report.curve.value import Curve
from autockpt.report.terminal.comparison import Comparison
from autockpt.report.values import PlanValues


class Op(msgspec.Struct, forbid_unknown_fields=True):
    """An operation: what it reads and writes, by index of the storage, and what a run costs."""

    name: str
    runtime_ns: int
    reads: list[int]
    writes: list[int]
    workspace_bytes: int
    recomputable: bool
    is_backward: bool
    segment: str
    region: int
    overwrites: list[int] = []
    is_fence: bool = False


class Graph(msgspec.Struct, forbid_unknown_fields=True):
    """The graph of a training step; a storage is its name and its bytes."""

    format: Literal["autockpt-graph"]
    version: Literal[1]
    ops: list[Op]
    storages: list[tuple[str, int]]
    outputs: list[int]


class ScheduleFile(msgspec.Struct, forbid_unknown_fields=True):
    """A schedule: op k is k, and freeing storage k is -1 - k."""

    format: Literal["autockpt-schedule"]
    version: Literal[1]
    steps: list[int]


class Places(msgspec.Struct, forbid_unknown_fields=True):
    """Source lines (file, number, code), the line of each op (-1: unknown), ops outside of it."""

    lines: list[tuple[str, int, str]]
    of_ops: list[int]
    outside: list[int]


class MaxBatch(msgspec.Struct, forbid_unknown_fields=True):
    """The answer of `max-batch`; see `autockpt.BatchSize`."""

    batch_size: int
    budget_bytes: int
    device: str
    predicted_peak_bytes: int
    verified_peak_bytes: int | None
    overhead: float
    limit: str
    limit_is_proven: bool
    next_minimum_bytes: int
    num_captures: int
    is_affine: bool
    eager_batch_size: int | None
    checkpointed_batch_size: int | None
    notes: list[str]


class Solved(msgspec.Struct, forbid_unknown_fields=True):
    """The answer of `solve`; if no plan fits, `peak_bytes` is the lowest peak found."""

    status: Literal["optimal", "feasible", "infeasible", "not_found", "out_of_time"]
    method: str
    budget_bytes: int
    baseline_peak_bytes: int
    peak_bytes: int
    lower_bound_bytes: int
    recompute_ns: int
    lower_bound_ns: int
    bound_class: str
    duration_increase_percent: float
    solve_time_s: float


class Cache(msgspec.Struct, forbid_unknown_fields=True):
    """The answer of `cache info`."""

    folder: str
    num_operators: int
    operators_bytes: int
    num_plans: int
    plans_bytes: int
    plans_are_kept: bool


class Verified(msgspec.Struct, forbid_unknown_fields=True):
    """The answer of `verify` and `demo`: measured figures, and predicted ones beside them."""

    budget_bytes: int
    rung: str
    num_steps: int
    bit_equal: bool
    num_tensors: int
    differing: list[str]
    eager_peak_bytes: int
    optimized_peak_bytes: int
    predicted_eager_peak_bytes: int
    predicted_peak_bytes: int
    eager_step_ns: int
    optimized_step_ns: int
    time_ratio: float
    least_time_ratio: float
    most_time_ratio: float
    clock: Literal["processor", "device"]
    predicted_overhead: float
    planning_s: float


class Choice(msgspec.Struct, forbid_unknown_fields=True):
    """What the plan does with an operation's values."""

    op: int
    name: str
    choice: Literal["saved", "recomputed", "not needed by the backward"]
    size_bytes: int
    num_runs: int
    runtime_ns: int
    can_run_again: bool


class OtherChoice(msgspec.Struct, forbid_unknown_fields=True):
    """The plan with another choice for some operations, simulated."""

    choice: Literal["saved", "recomputed"]
    ops: list[int]
    peak_bytes: int
    more_bytes: int
    more_ns: int
    fits: bool


class Explained(msgspec.Struct, forbid_unknown_fields=True):
    """The answer of `explain`."""

    name: str
    budget_bytes: int
    predicted_peak_bytes: int
    at_peak_bytes: int
    choices: list[Choice]
    others: list[OtherChoice]


class Plain(msgspec.Struct, forbid_unknown_fields=True):
    """A way to checkpoint with torch alone, simulated."""

    name: str
    code: list[str]
    peak_bytes: int
    overhead: float
    fits: bool


class Applied(msgspec.Struct, forbid_unknown_fields=True):
    """The answer of `apply`."""

    code: list[str]
    budget_bytes: int
    predicted_peak_bytes: int
    overhead: float
    plain: list[Plain]


class Monitored(msgspec.Struct, forbid_unknown_fields=True):
    """The summary of `monitor`; on a CPU, bytes are resident ones of the process."""

    device: Literal["cpu", "cuda"]
    seconds: float
    peak_bytes: int
    peak_reserved_bytes: int
    num_steps: int
    median_step_s: float | None
    budget_bytes: int | None
    predicted_peak_bytes: int | None
    exit_code: int
    error: str | None


def _document(
    name: str, of: type[Any], more: dict[str, Any], without: tuple[str, ...] = ()
) -> type[msgspec.Struct]:
    """A document with the fields of a dataclass, and others."""
    hints = typing.get_type_hints(of)
    kept = [
        (field.name, hints[field.name])
        for field in dataclasses.fields(of)
        if field.name not in without
    ]
    made = msgspec.defstruct(name, [*more.items(), *kept], forbid_unknown_fields=True)
    made.__doc__ = (of.__doc__ or "").partition("\n")[0]
    return made


ANSWERS: dict[str, Any] = {
    "plan": _document(
        "Plan",
        PlanValues,
        {
            "format": Literal["autockpt plan"],
            "version": Literal[2],
            "graph": Graph | None,
            "schedule": ScheduleFile | None,
            "places": Places,
        },
    ),
    "graph": Graph,
    "bench": ExperimentResults | PeerResults,
    "pareto": _document(
        "Curve", Curve, {"format": Literal["autockpt curve"], "version": Literal[1]}
    ),
    "fit": _document("Fit", FitValues, {"fits": bool, "fits_as_it_is": bool}, ("plan",)),
    "max-batch": MaxBatch,
    "solve": Solved,
    "verify": Verified,
    "explain": Explained,
    "apply": Applied,
    "diff": Comparison,
    "monitor": Monitored,
    "doctor": _document("Doctor", Examination, {"is_well": bool, "cache": Cache}),
    "cache": Cache,
}


def schema_texts() -> dict[str, str]:
    """Returns the JSON Schema of each command's answer, as the text of a file."""
    return {
        name: msgspec.json.format(
            msgspec.json.encode(
                {
                    "$schema": "https://json-schema.org/draft/2020-12/schema",
                    **msgspec.json.schema(kind),
                }
            ),
            indent=2,
        ).decode()
        + "\n"
        for name, kind in ANSWERS.items()
    }
