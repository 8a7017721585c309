"""The parts of a plan: memory that no plan can save, and what happens to each module."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from autockpt.report.kinds import MemoryKind


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedBytes:
    """Memory that is in use for the whole training step, whatever the plan.

    Attributes:
        parameters_bytes: Parameters; shared ones count once.
        buffers_bytes: Buffers.
        optimizer_bytes: State that the optimizer keeps between steps.
        inputs_bytes: The batch.
        communication_bytes: Buckets in which gradients are reduced across devices.
        workspace_bytes: What libraries such as cuBLAS keep once they have run.
        other_calls_bytes: What the other calls before the same backward hold while one is at its
            peak.
        other_models_bytes: What other optimized models have in memory in the same step.
    """

    parameters_bytes: int
    buffers_bytes: int
    optimizer_bytes: int
    inputs_bytes: int
    communication_bytes: int = 0
    workspace_bytes: int = 0
    other_calls_bytes: int = 0
    other_models_bytes: int = 0

    def __post_init__(self) -> None:
        check_not_negative(self)

    @property
    def resting_bytes(self) -> int:
        """What is in memory before the step begins."""
        return self.total_bytes - self.other_calls_bytes

    @property
    def total_bytes(self) -> int:
        """The sum of all fields."""
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def by_kind(self) -> dict[str, int]:
        """All fields, as an error names them."""
        return {
            MemoryKind.PARAMETERS: self.parameters_bytes,
            MemoryKind.BUFFERS: self.buffers_bytes,
            MemoryKind.OPTIMIZER_STATE: self.optimizer_bytes,
            MemoryKind.INPUTS: self.inputs_bytes,
            MemoryKind.BUCKETS: self.communication_bytes,
            MemoryKind.LIBRARIES: self.workspace_bytes,
            MemoryKind.OTHER_CALLS: self.other_calls_bytes,
            MemoryKind.OTHER_MODELS: self.other_models_bytes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRow:
    """What the plan does with one module.

    Attributes:
        module: Qualified name; empty for operations outside any module.
        saved_bytes: Bytes of its values that are saved for the backward.
        recomputed_bytes: Bytes of its values that are recomputed.
        recompute_ns: Time of that recomputation.
        num_recomputed_ops: Number of operations that run again.
    """

    module: str
    saved_bytes: int
    recomputed_bytes: int
    recompute_ns: int
    num_recomputed_ops: int

    def __post_init__(self) -> None:
        check_not_negative(self)


def check_not_negative(record: Any) -> None:
    """Raises ValueError if a count, a time or a number of bytes is negative."""
    for field in fields(record):
        counts = field.name.endswith(("_bytes", "_ns", "_s")) or field.name.startswith("num_")
        value = getattr(record, field.name) if counts else None
        if value is not None and value < 0:
            raise ValueError(f"{field.name} must not be negative, got {value}")
