"""The kinds of memory of a training step, in the order of the ledger."""

from __future__ import annotations

from enum import StrEnum


class MemoryKind(StrEnum):
    """A kind of memory; the value is how it reads, and how files have it."""

    PARAMETERS = "parameters"
    BUFFERS = "buffers"
    OPTIMIZER_STATE = "optimizer state"
    INPUTS = "inputs"
    BUCKETS = "buckets"
    LIBRARIES = "workspace of cuBLAS"
    OTHER_CALLS = "other calls"
    OTHER_MODELS = "other models"
    OLDER_GRADIENTS = "gradients of an earlier backward"
    # What a step itself has in memory.
    GRADIENTS = "gradients"
    OUTPUTS = "outputs"
    SAVED = "saved activations"
    RECOMPUTED = "recomputed activations"
    FORWARD = "forward values"
    BACKWARD = "backward values"
    OUTSIDE = "loss outside of the model"
    CLEARED_GRADIENTS = "cleared gradients"
    # What an op has in memory only while it runs.
    WORKSPACE = "workspace"
    OPTIMIZER_WORKSPACE = "optimizer's step"
    # What runs between the forward and the backward.
    CALLS_BETWEEN = "calls in between"
    # What is not known by its parts.
    EAGER_ALONE = "in eager PyTorch alone"
    WHOLE_STEP = "activations, gradients and workspace"

    def __repr__(self) -> str:
        """As any other text: kinds are keys of what you print."""
        return repr(self.value)


STORAGE_KINDS = (
    MemoryKind.GRADIENTS,
    MemoryKind.OUTPUTS,
    MemoryKind.SAVED,
    MemoryKind.RECOMPUTED,
    MemoryKind.FORWARD,
    MemoryKind.BACKWARD,
    MemoryKind.OUTSIDE,
    MemoryKind.CLEARED_GRADIENTS,
)
STEP_KINDS = (
    *STORAGE_KINDS,
    MemoryKind.WORKSPACE,
    MemoryKind.OPTIMIZER_WORKSPACE,
    MemoryKind.CALLS_BETWEEN,
)
